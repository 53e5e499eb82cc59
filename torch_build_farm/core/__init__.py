"""Utilities that know nothing of torch: errors, processes, files, the store, the package index.

Nothing in this room may know what a variant is, and nothing here imports another room.
"""
