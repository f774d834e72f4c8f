"""Write ``gumbel_muzero.json``: searches of small random models by mctx's Gumbel MuZero.

The models are deterministic Markov decision processes given as tables, so that a test can replay them without mctx.
All edge values lie within [0, 1] by construction (values in [0, 1], rewards in [0, 0.1], discount 0.9) and mctx does
not rescale them; a search whose smallest and largest value are 0 and 1 from the start therefore has the same
transform. Numbers are written with the digits that float32 needs.

How to run it (the versions that made the committed file are recorded in it: mctx 0.0.71, jax and jaxlib 0.10.2):

    python -m venv /tmp/mctx
    /tmp/mctx/bin/pip install mctx==0.0.71 jax==0.10.2 jaxlib==0.10.2
    /tmp/mctx/bin/python tests/search/golden/make_golden.py
"""

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mctx
import numpy as np

DISCOUNT = 0.9
N_STATES = 24
ROWS = 3  # searches with the same model, budget and number of considered actions
# (n_actions, n_simulations, n_considered)
CONFIGURATIONS = [
    (2, 4, 2),
    (2, 16, 2),
    (2, 64, 1),
    (3, 8, 3),
    (3, 50, 2),
    (4, 16, 4),
    (4, 64, 4),
    (5, 24, 3),
    (6, 16, 6),
    (6, 33, 5),
    (8, 16, 8),
    (8, 64, 4),
    (10, 40, 7),
    (12, 6, 12),
    (16, 32, 16),
    (16, 64, 16),
    (18, 16, 4),
    (18, 16, 18),
    (18, 50, 16),
    (18, 64, 8),
]


def numbers(array: Any) -> Any:
    """Nested lists with the shortest digits that give the same float32 (or integer) again."""
    array = np.asarray(array)
    if array.dtype.kind in "iu":
        return array.tolist()
    return np.array([float(str(number)) for number in array.astype(np.float32).ravel()]).reshape(array.shape).tolist()


def random_model(rng: np.random.Generator, n_actions: int) -> dict[str, np.ndarray]:
    """Tables of a deterministic Markov decision process, indexed by state and action."""
    shape = (N_STATES, n_actions)
    return {
        "next_states": rng.integers(0, N_STATES, shape),
        "rewards": rng.uniform(0.0, 0.1, shape).astype(np.float32),
        "values": rng.uniform(0.0, 1.0, N_STATES).astype(np.float32),
        "logits": (1.5 * rng.normal(size=shape)).astype(np.float32),
    }


def plan(
    model: dict[str, np.ndarray], states: np.ndarray, n_simulations: int, n_considered: int, seed: int
) -> mctx.PolicyOutput:
    """Run mctx from the given states."""
    tables = {name: jnp.asarray(table) for name, table in model.items()}

    def recurrent_fn(params: Any, key: Any, action: Any, state: Any) -> tuple[mctx.RecurrentFnOutput, Any]:
        following = tables["next_states"][state, action]
        output = mctx.RecurrentFnOutput(
            reward=tables["rewards"][state, action],
            discount=jnp.full(state.shape, DISCOUNT, jnp.float32),
            prior_logits=tables["logits"][following],
            value=tables["values"][following],
        )
        return output, following

    root = mctx.RootFnOutput(
        prior_logits=tables["logits"][states], value=tables["values"][states], embedding=jnp.asarray(states)
    )
    transform = functools.partial(
        mctx.qtransform_completed_by_mix_value, value_scale=0.1, maxvisit_init=50, rescale_values=False
    )
    return mctx.gumbel_muzero_policy(
        params=(),
        rng_key=jax.random.PRNGKey(seed),
        root=root,
        recurrent_fn=recurrent_fn,
        num_simulations=n_simulations,
        max_num_considered_actions=n_considered,
        qtransform=transform,
    )


def main() -> None:
    """Search every configuration and write the file beside this script."""
    rng = np.random.default_rng(20240301)
    models, searches = [], []
    for seed, (n_actions, n_simulations, n_considered) in enumerate(CONFIGURATIONS):
        model = random_model(rng, n_actions)
        states = rng.choice(N_STATES, ROWS, replace=False)
        output = plan(model, states, n_simulations, n_considered, seed)
        tree = output.search_tree
        summary = tree.summary()
        models.append({name: numbers(table) for name, table in model.items()})
        for row in range(ROWS):
            searches.append(
                {
                    "model": seed,
                    "state": int(states[row]),
                    "n_simulations": n_simulations,
                    "n_considered": n_considered,
                    "gumbel": numbers(tree.extra_data.root_gumbel[row]),
                    "parents": numbers(tree.parents[row, 1:]),
                    "edges": numbers(tree.action_from_parent[row, 1:]),
                    "visit_counts": numbers(summary.visit_counts[row].astype(int)),
                    "root_value": numbers(summary.value[row]),
                    "selected": int(output.action[row]),
                    "improved_policy": numbers(output.action_weights[row]),
                }
            )
    content = {
        "made_with": {package: version(package) for package in ("mctx", "jax", "jaxlib")},
        "discount": DISCOUNT,
        "models": models,
        "searches": searches,
    }
    path = Path(__file__).with_name("gumbel_muzero.json")
    path.write_text(json.dumps(content, separators=(",", ":")).replace('},{"', '},\n{"') + "\n")
    print(f"{len(searches)} searches, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
