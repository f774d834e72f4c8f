"""A search on the CPU whose tree is compiled and whose model is torch."""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.common.type_aliases import Expansion, Noise, SearchResult, SearchRoot, SearchSettings
from sb3_ezv2.networks.model import EfficientZeroModel, NetworkOutput
from sb3_ezv2.planning.torch_nodes import TorchNodes, noise_on_device
from sb3_ezv2.search.qvalues import Constants
from sb3_ezv2.search.search import grow, result_of
from sb3_ezv2.search.tree import SearchTree


class GrownTrees(NamedTuple):
    """The trees of a search, and what they are made of."""

    tree: SearchTree
    constants: Constants
    nodes: TorchNodes  # with the actions, which the tree knows by their numbers only
    root: NetworkOutput


def grow_in_torch(
    model: EfficientZeroModel,
    observations: dict[str, th.Tensor],
    noise: Noise,
    explore: bool,
    settings: SearchSettings,
    masks: np.ndarray | None = None,
) -> GrownTrees | None:
    """Search with :func:`sb3_ezv2.search.search.grow`; arguments as of :func:`plan_in_torch`.

    :return: ``None`` if the network's values or policies are not finite
    """
    root = model.initial_inference(observations)
    if not (th.isfinite(root.values).all() and th.isfinite(root.policies).all()):
        return None
    device = model.reward_scale.device
    legal = None if masks is None else on_device(masks, device)
    nodes = TorchNodes(model, root, noise_on_device(noise, device), settings.n_simulations, explore, masks=legal)
    root_answers = _on_host(root.values, nodes.candidates.logits)

    def expand(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        # One copy goes to the model's device and one comes back.
        found = nodes.expand(node, *on_device(np.stack([parents, edges]), device))
        return Expansion(*_on_host(found.rewards, found.values, found.prior_logits))

    tree, constants = grow(
        SearchRoot(*root_answers),
        expand,
        np.broadcast_to(noise.gumbel, root_answers[1].shape),
        model.action_kind.n_children,
        settings,
        float(model.reward_scale),
    )
    return GrownTrees(tree, constants, nodes, root)


def plan_in_torch(
    model: EfficientZeroModel,
    observations: dict[str, th.Tensor],
    noise: Noise,
    explore: bool,
    settings: SearchSettings,
    masks: np.ndarray | None = None,
) -> tuple[SearchResult, np.ndarray] | None:
    """Search with :func:`grow_in_torch`, see :data:`~sb3_ezv2.planning.planner.PlanFunction`."""
    grown = grow_in_torch(model, observations, noise, explore, settings, masks)
    return None if grown is None else read_plan(grown)


def read_plan(grown: GrownTrees) -> tuple[SearchResult, np.ndarray]:
    """What grown trees say of their roots, and the candidates that were drawn."""
    return result_of(grown.tree, grown.constants), grown.nodes.candidates.actions.cpu().numpy()


def _on_host(*tensors: th.Tensor) -> list[np.ndarray]:
    """Vectors ``[n]`` and tables ``[n, ...]`` as arrays, copied together."""
    widths = [1 if tensor.ndim == 1 else tensor.shape[1] for tensor in tensors]
    together = th.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], dim=1).cpu().numpy()
    parts = np.split(together, np.cumsum(widths)[:-1], axis=1)
    return [
        np.ascontiguousarray(part[:, 0] if tensor.ndim == 1 else part)
        for tensor, part in zip(tensors, parts, strict=True)
    ]
