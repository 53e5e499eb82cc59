"""To an index: what is built and proven, in an order that never leaves users with half of it."""
