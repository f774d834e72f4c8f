"""Sampled Gumbel search on flat arrays, in numpy and numba only."""

from sb3_ezv2.search.search import search

__all__ = ["search"]
