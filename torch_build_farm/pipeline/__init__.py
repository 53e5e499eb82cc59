"""A run: the stages of `stages` over the jobs of a plan, side by side, each leaving a record."""
