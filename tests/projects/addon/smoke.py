"""A type of the core goes through the add-on."""

import acme
import acme.solver

assert acme.solver.energy(acme.Body(2.0)) == 6.0
print("the solver takes the core's bodies")
