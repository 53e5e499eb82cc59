"""Torch releases as the package index has them, and the variants that serve them."""
