"""A search with a network as its model.

In come observations and a world model. Candidates are chosen, latent states unrolled and a tree grown. Out goes a
``Plan``: actions, improved policy and values.

Three searches do the same, node for node. :func:`.planner.choose_search` chooses by the model and its device:

- :mod:`.fused_search`: vectors on the CPU. Tree and network are one compiled function, because calling torch for a few
  states takes longer than computing them.
- :mod:`.torch_search`: every other model on the CPU, for example images. The tree is the same compiled code and the
  model is torch, whose convolutions and LSTMs cannot be beaten there.
- :mod:`.device_search`: any model on a GPU. Tree and network are tensor operations of fixed shapes, so nothing waits
  for the host and all of it is recorded once as a CUDA graph. One or two states of a model for vectors are searched by
  the first search all the same, with a copy on the CPU (:mod:`.host_copy`).

Selection, backup and read-out stand once per language: in numba in :mod:`sb3_ezv2.search`, for the first two searches,
and as tensor operations in :mod:`.tensor_search`. So does the evaluation of nodes: in numba in :mod:`.fused_network`,
and in torch in :mod:`.torch_nodes`, for the last two. ``tests/planning/test_equivalence.py`` holds all of them against
each other and against a slow search in plain Python.
"""
