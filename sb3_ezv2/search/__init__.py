"""Sampled Gumbel search on flat arrays, in numpy and numba only.

In come ``SearchRoot`` (values and priors of the states), a function that expands one node of every tree, and
``SearchSettings``. Sequential halving spends the simulations, values are backed up. Out goes a ``SearchResult``.
"""

from sb3_ezv2.search.search import search

__all__ = ["search"]
