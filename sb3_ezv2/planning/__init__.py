"""A search with a network as its model.

In come observations and a world model. Candidates are chosen, latent states unrolled and a tree grown. Out goes a
``Plan``: actions, improved policy and values.

Three searches do the same, node for node. :mod:`.fused_search` runs on the CPU for vector observations: tree and
network are one compiled function, because calling torch for a few states takes longer than computing them.
:mod:`sb3_ezv2.search.search` with :mod:`.torch_nodes` runs on the CPU for every other network: the compiled tree, torch
as the model. :mod:`.device_search` runs on a GPU: tree and network as tensor operations of fixed shapes, which are
recorded once as a CUDA graph. :class:`.planner.Planner` chooses.
"""
