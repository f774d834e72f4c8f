"""A planner in one file: the acting network and its search as one ONNX graph, which needs no Python to run."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ezv2.common.files import open_to_replace
from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.spaces import named_spaces
from sb3_ezv2.common.tensors import to_tensors
from sb3_ezv2.planning.search_graph import DecisionGraph, Normalization, PolicyGraph, SearchGraph
from sb3_ezv2.planning.torch_nodes import noise_on_device
from sb3_ezv2.policies import PlanningPolicy

OPSET = 18
"""Version of the operators of ONNX: every runtime since 2023 knows it."""
NOISE = ("gumbel", "candidate_noise", "child_noise")
"""Names of the inputs that follow the observations if the search explores."""


def write_onnx(
    policy: PlanningPolicy,
    normalizer: Normalizer,
    path: str | Path,
    n_simulations: int | None,
    deterministic: bool,
    search: bool,
    n_observations: int,
) -> None:
    """Write the graph of a decision; see ``EfficientZeroV2.export_onnx``."""
    onnx = _onnx()
    graph = _graph(policy, normalizer, n_simulations, deterministic, search).eval()
    inputs, names = _inputs(policy, graph, n_observations)
    try:
        with th.no_grad(), _quiet():
            program = th.onnx.export(
                graph,
                inputs,
                input_names=names,
                output_names=list(graph.NAMES),
                opset_version=OPSET,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
            assert program is not None
            proto = program.model_proto
            onnx.checker.check_model(proto)
    except Exception as error:  # the exporter raises different errors for what ONNX does not know
        extractor = getattr(policy.network, "features_extractor_class", None)
        where = "the network" if extractor is None else f"features_extractor_class={extractor.__name__} or the network"
        raise ValueError(
            f"{where} has an operator that ONNX cannot express: {_first_line(error)}. Use layers that "
            "torch.onnx.export knows in its place; nothing was written"
        ) from error
    _describe(proto, policy, graph)
    with open_to_replace(Path(path)) as file:
        file.write(proto.SerializeToString())


def _onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  # PyTorch's exporter needs it
    except ImportError as error:
        raise ImportError(f"{error.name} is missing: pip install 'sb3_ezv2[export]'") from error
    return onnx


def _graph(
    policy: PlanningPolicy, normalizer: Normalizer, n_simulations: int | None, deterministic: bool, search: bool
) -> DecisionGraph:
    """The module to be exported, on the CPU."""
    model = deepcopy(policy.average_model).cpu().eval()
    keys, normalizations = tuple(named_spaces(policy.observation_space)), _normalizations(normalizer)
    if not search:
        return PolicyGraph(model, keys, normalizations)
    arguments = policy.search_arguments
    if n_simulations is not None:
        arguments = replace(arguments, n_simulations=n_simulations)
    planner = arguments.planner(policy.action_kind.n_candidates)
    noise = noise_on_device(planner.greedy_noise(model), th.device("cpu")) if deterministic else None
    return SearchGraph(model, keys, normalizations, planner.settings(model), noise)


def _normalizations(normalizer: Normalizer) -> dict[str, Normalization]:
    """What ``VecNormalize`` does to the observations, by key."""
    wrapper = normalizer.vec_normalize
    found = {}
    for key in normalizer.observation_keys():
        assert wrapper is not None
        statistics = wrapper.obs_rms[key] if isinstance(wrapper.obs_rms, dict) else wrapper.obs_rms
        mean, std = statistics.mean, np.sqrt(statistics.var + wrapper.epsilon)
        for _ in normalizer.transposed:
            mean, std = np.moveaxis(mean, -1, 0), np.moveaxis(std, -1, 0)
        found[key] = Normalization(th.as_tensor(mean), th.as_tensor(std), float(wrapper.clip_obs))
    return found


def _inputs(
    policy: PlanningPolicy, graph: DecisionGraph, n_observations: int
) -> tuple[tuple[th.Tensor, ...], list[str]]:
    """Tensors of the inputs' shapes, and their names."""
    space = deepcopy(policy.observation_space)
    space.seed(0)
    drawn = [space.sample() for _ in range(n_observations)]
    single = not isinstance(space, spaces.Dict)
    arrays = {key: np.stack([np.asarray(one if single else one[key]) for one in drawn]) for key in graph.keys}
    tensors = to_tensors(arrays, th.device("cpu"))
    inputs = tuple(tensors[key].float() if key in graph.normalizations else tensors[key] for key in graph.keys)
    names = list(graph.keys)
    if isinstance(graph, SearchGraph) and graph.greedy_noise is None:
        kind, n_simulations = policy.action_kind, graph.settings.n_simulations
        noise = th.zeros(n_observations, kind.n_candidates)
        sampled = th.zeros(n_observations, kind.n_candidates, kind.noise_dim)
        children = th.zeros(n_simulations, n_observations, kind.n_children, kind.noise_dim)
        # Inputs of no numbers would be left out of the graph.
        inputs += (noise, sampled, children) if kind.sampled else (noise,)
        names += NOISE if kind.sampled else NOISE[:1]
    return inputs, names


def _describe(proto: Any, policy: PlanningPolicy, graph: DecisionGraph) -> None:
    """Say in the file what it is."""
    proto.producer_name = "sb3_ezv2"
    facts = {"action_space": str(policy.action_space), "observation_space": str(policy.observation_space)}
    if isinstance(graph, SearchGraph):
        facts["n_simulations"] = str(graph.settings.n_simulations)
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints of its steps."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
