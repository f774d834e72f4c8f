"""A whole search on a GPU: one copy of the observations there, one copy of the results back, nothing in between.

Network and tree are operations of fixed shapes (:mod:`sb3_ezv2.planning.tensor_search`), so the search of a number of
roots is recorded once as a CUDA graph and repeated with new numbers in the same memory. The parts that every simulation
repeats are compiled before, which makes a few kernels of many. Where PyTorch cannot do the one or the other, it warns,
and the same operations run one by one.
"""

import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch as th

from sb3_ezv2.common.recording import Recorder, padded
from sb3_ezv2.common.tensors import addresses_of, on_device
from sb3_ezv2.common.type_aliases import Noise, SearchResult, SearchSettings
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.tensor_search import TreeOperations, back_up_tensors, select_tensors, tensor_search
from sb3_ezv2.planning.torch_nodes import EvaluateNodes, TensorNoise, TorchNodes, evaluate_nodes, noise_on_device

FEWEST_ROWS = 2
"""A size of 1 is a special case for a compiler, which would compile everything once more for it."""
WARM_UPS = 2


class SearchInputs(NamedTuple):
    """What a recorded search reads; rows that are not needed hold earlier numbers."""

    observations: dict[str, th.Tensor]  # [rows, ...]
    noise: TensorNoise  # of `rows` states
    masks: th.Tensor | None = None  # [rows, mask_size] bool


class Operations(NamedTuple):
    """What every simulation calls."""

    evaluate: EvaluateNodes = evaluate_nodes
    tree: TreeOperations = TreeOperations()


@lru_cache(maxsize=1)
def compiled_operations() -> Operations:
    """The same functions, compiled when they are first called."""
    return Operations(_compiled(evaluate_nodes), TreeOperations(_compiled(select_tensors), _compiled(back_up_tensors)))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """With one version of every elementwise kernel: trying out up to six takes longer than a short run's searches."""
    return th.compile(function, options={"triton.autotune_pointwise": False})


def search_in_tensors(
    model: EfficientZeroModel, inputs: SearchInputs, explore: bool, settings: SearchSettings, operations: Operations
) -> th.Tensor:
    """Search and put everything that is found into one tensor ``[rows, columns]`` float32, see :func:`unpack`.

    :param model: on any device
    :param inputs: observations and noise
    :param explore: whether candidates come from the flattened policy too
    :param settings: of the search
    :param operations: what every simulation calls
    """
    root = model.initial_inference(inputs.observations)
    finite = th.isfinite(root.values) & th.isfinite(root.policies).all(dim=1)
    nodes = TorchNodes(model, root, inputs.noise, settings.n_simulations, explore, operations.evaluate, inputs.masks)
    found = tensor_search(
        root.values,
        nodes.candidates.logits,
        nodes.expand,
        inputs.noise.gumbel,
        model.action_kind.n_children,
        settings,
        model.reward_scale,
        operations.tree,
        complete=inputs.masks is None and not model.action_kind.merges,
    )
    columns = [finite, found.selected, found.root_values, found.improved_values, found.policy_values]
    tables = [found.improved_policy, found.visit_counts, nodes.candidates.actions.flatten(1)]
    return th.cat(
        [th.stack([column.float() for column in columns], dim=1), *(table.float() for table in tables)], dim=1
    )


def unpack(packed: np.ndarray, n_candidates: int) -> tuple[SearchResult, np.ndarray] | None:
    """Results and sampled candidates ``[rows, ...]``, or ``None`` if the network's answer was not finite.

    :param packed: from :func:`search_in_tensors`; whole numbers in it are exact
    :param n_candidates: of every root
    """
    finite, selected, root_values, improved_values, policy_values = packed[:, :5].T
    if not finite.all():
        return None
    policy, visits, candidates = np.split(packed[:, 5:], [n_candidates, 2 * n_candidates], axis=1)
    result = SearchResult(
        selected=selected.astype(np.int64),
        improved_policy=np.ascontiguousarray(policy),
        root_values=np.ascontiguousarray(root_values),
        visit_counts=visits.astype(np.int32),
        improved_values=np.ascontiguousarray(improved_values),
        policy_values=np.ascontiguousarray(policy_values),
    )
    return result, np.ascontiguousarray(candidates)


class RecordedSearch:
    """The search of one model for one number of rows.

    :param model: not kept; recorded are the places of its parameters
    :param inputs: static tensors that the search reads
    :param explore: see :func:`search_in_tensors`
    :param settings: see :func:`search_in_tensors`
    :param compiled: whether to compile what every simulation calls
    :param pool: memory for the recording, see :meth:`~sb3_ezv2.common.recording.Recorder.capture`
    """

    def __init__(
        self,
        model: EfficientZeroModel,
        inputs: SearchInputs,
        explore: bool,
        settings: SearchSettings,
        compiled: bool,
        pool: Any = None,
    ) -> None:
        self.inputs = inputs
        recorder = Recorder(model.reward_scale.device)
        run = partial(search_in_tensors, inputs=inputs, explore=explore, settings=settings)
        operations = compiled_operations() if compiled else Operations()
        with recorder.beside():
            try:
                for _ in range(WARM_UPS):
                    run(model, operations=operations)
            except Exception as error:  # compilers fail in many ways, and nothing depends on them
                if not compiled:
                    raise
                warnings.warn(f"the search is slower because it is not compiled: {error}", stacklevel=2)
                operations = Operations()
                run(model, operations=operations)
        self.run = partial(run, operations=operations)
        self.repeat: Callable[[], th.Tensor] | None = None
        try:
            self.repeat = recorder.capture(partial(self.run, model), pool)
        except RuntimeError as error:
            warnings.warn(f"the search is slower because no CUDA graph can be recorded: {error}", stacklevel=2)

    def __call__(self, model: EfficientZeroModel) -> th.Tensor:
        """Search with what the inputs hold now, see :func:`search_in_tensors`; overwritten by the next call."""
        return self.repeat() if self.repeat is not None else self.run(model)


class ModelSearches:
    """The recorded searches of one model, in memory that they share.

    They follow each other, and none reads what another one left there. They are given up together when the model's
    tensors lie elsewhere, and their memory with them: PyTorch records nothing more in memory whose last recording is
    gone. For the same reason no two models share it.

    :param model: not kept
    """

    def __init__(self, model: EfficientZeroModel) -> None:
        self.addresses = addresses_of(model)
        self.by_kind: dict[tuple, RecordedSearch] = {}
        self.pool = th.cuda.graph_pool_handle() if model.reward_scale.device.type == "cuda" else None


_SEARCHES: WeakKeyDictionary[EfficientZeroModel, ModelSearches] = WeakKeyDictionary()


def recorded_searches(model: EfficientZeroModel) -> list[RecordedSearch]:
    """What :func:`plan_on_device` keeps for a model, one for every kind and size of search."""
    searches = _SEARCHES.get(model)
    return [] if searches is None else list(searches.by_kind.values())


def plan_on_device(
    model: EfficientZeroModel,
    observations: dict[str, th.Tensor],
    noise: Noise | TensorNoise,
    explore: bool,
    settings: SearchSettings,
    masks: np.ndarray | None = None,
) -> tuple[SearchResult, np.ndarray] | None:
    """Search on the model's device; ``None`` if the network's answer is not finite.

    The number of rows is the next power of two, so that few searches are recorded; rows do not see each other.

    :param model: the newest parameters are used, wherever they are
    :param observations: ``[n, ...]`` by key
    :param noise: for ``n`` states or for one that all of them share
    :param explore: whether candidates come from the flattened policy too
    :param settings: of the search
    :param masks: of the legal choices ``[n, mask_size]``; ``None`` for all
    """
    n, device = len(next(iter(observations.values()))), model.reward_scale.device
    rows = max(FEWEST_ROWS, padded(n))
    searches = _SEARCHES.get(model)
    if searches is None or searches.addresses != addresses_of(model):
        searches = _SEARCHES[model] = ModelSearches(model)
    key = (
        rows,
        explore,
        settings,
        masks is None,
        *((name, part.dtype, part.shape[1:]) for name, part in observations.items()),
    )
    search = searches.by_kind.get(key)
    noise, legal = noise_on_device(noise, device), None if masks is None else on_device(masks, device)
    if search is None:
        inputs, on_gpu = _static_inputs(observations, noise, legal, rows), device.type == "cuda"
        search = searches.by_kind[key] = RecordedSearch(model, inputs, explore, settings, on_gpu, searches.pool)
    _fill(search.inputs, observations, noise, legal, n)
    return unpack(search(model)[:n].cpu().numpy(), model.action_kind.n_candidates)


def _static_inputs(
    observations: dict[str, th.Tensor], noise: TensorNoise, masks: th.Tensor | None, rows: int
) -> SearchInputs:
    """Tensors of ``rows`` rows, all of them with the first state's numbers, which are valid ones."""

    def repeated(tensor: th.Tensor, axis: int) -> th.Tensor:
        return tensor.narrow(axis, 0, 1).repeat_interleave(rows, axis)

    return SearchInputs(
        {key: repeated(part, 0) for key, part in observations.items()},
        TensorNoise(repeated(noise.gumbel, 0), repeated(noise.candidates, 0), repeated(noise.children, 1)),
        None if masks is None else repeated(masks, 0),
    )


def _fill(
    inputs: SearchInputs, observations: dict[str, th.Tensor], noise: TensorNoise, masks: th.Tensor | None, n: int
) -> None:
    """Write the ``n`` states to be searched into the first rows."""
    for key, part in observations.items():
        inputs.observations[key][:n].copy_(part)
    inputs.noise.gumbel[:n].copy_(noise.gumbel)
    inputs.noise.candidates[:n].copy_(noise.candidates)
    inputs.noise.children[:, :n].copy_(noise.children)
    if inputs.masks is not None and masks is not None:
        inputs.masks[:n].copy_(masks)


def draw_on_device(model: EfficientZeroModel, n: int, n_simulations: int, rng: np.random.Generator) -> TensorNoise:
    """Noise for exploring, drawn on the model's device from a seed that ``rng`` gives.

    :param model: for whose search the noise is
    :param n: number of states
    :param n_simulations: of the search
    :param rng: source of the seed
    """
    device, kind = model.reward_scale.device, model.action_kind
    generator = th.Generator(device).manual_seed(int(rng.integers(2**62)))
    gumbel = th.zeros(n, kind.n_candidates, device=device)
    if kind.gumbel:
        # An exponential draw may be exactly 0, whose logarithm is infinite.
        gumbel = -gumbel.exponential_(generator=generator).clamp(min=th.finfo(gumbel.dtype).tiny).log()

    def normal(*shape: int) -> th.Tensor:
        return th.randn(*shape, kind.noise_dim, generator=generator, device=device)

    return TensorNoise(gumbel, normal(n, kind.n_candidates), normal(n_simulations, n, kind.n_children))
