"""Errors, processes, files, locks, the store, the package index, and the names of torch minors and CPythons.

Nothing in this room knows what a variant is, and nothing here imports another room.
"""
