"""Hostile inputs: what strangers could send, made by generators, and the farm's own functions that read it.

A module for each kind of input has two functions:

- `examples(seed)` makes one input from a random seed: valid data that is damaged, or a bomb of a known kind.
- `check(data, folder)` hands it to the farm's own functions. They may write in `folder` only, and raise nothing but
  FarmError, which is a success: the input is refused.

`tests/hostile/box.py` runs them where time, memory and files are watched.
"""
