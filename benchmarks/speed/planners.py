"""Floating point operations that one decision costs: ours, and planners of the sizes of TD-MPC2 and DreamerV3.

The other two are networks without training, of the sizes in their papers for vector observations: what is counted is
the arithmetic of acting, which does not depend on the weights. A multiplication and an addition count as two.
"""

from collections.abc import Callable

import torch as th
from gymnasium import spaces
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sb3_ezv2.policies import MlpPolicy

LATENT, HIDDEN, N_BINS = 512, 512, 101
"""TD-MPC2 (Hansen et al. 2024, 5 million parameters)."""
N_ITERATIONS, HORIZON, N_SAMPLES, N_POLICY_SAMPLES, N_CRITICS_USED = 6, 3, 512, 24, 2
DETERMINISTIC, STOCHASTIC, UNITS = 512, 32 * 32, 512
"""DreamerV3 (Hafner et al. 2023, size S)."""
DREAMER_HORIZON = 15


def _mlp(*sizes: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)))


def counted(function: Callable[..., object], *arguments: th.Tensor) -> int:
    """Floating point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def ours(observation_dim: int, action_dim: int, n_simulations: int, network: dict[str, int]) -> int:
    """A search from one state with ``n_simulations`` model calls; the tree needs no arithmetic worth counting."""
    space, actions = spaces.Box(-1.0, 1.0, (observation_dim,)), spaces.Box(-1.0, 1.0, (action_dim,))
    model = MlpPolicy(space, actions, lambda _: 1e-3, **network).model  # type: ignore[arg-type]
    observation = {"observation": th.zeros(1, observation_dim)}
    with th.no_grad():
        latents = model.initial_inference(observation).latents
    root = counted(lambda: model.initial_inference(observation))
    return root + n_simulations * counted(lambda: model.recurrent_inference(latents, th.zeros(1, action_dim)))


def td_mpc2(observation_dim: int, action_dim: int) -> int:
    """Model predictive path integral control: samples of short action sequences, refined several times."""
    both = LATENT + action_dim
    encoder = _mlp(observation_dim, 256, LATENT)
    dynamics, reward = _mlp(both, HIDDEN, HIDDEN, LATENT), _mlp(both, HIDDEN, HIDDEN, N_BINS)
    critic, policy = _mlp(both, HIDDEN, HIDDEN, N_BINS), _mlp(LATENT, HIDDEN, HIDDEN, 2 * action_dim)
    latents, joint = th.zeros(N_SAMPLES, LATENT), th.zeros(N_SAMPLES, both)
    step = counted(dynamics, joint) + counted(reward, joint)
    last = counted(policy, latents) + N_CRITICS_USED * counted(critic, joint)
    few = N_POLICY_SAMPLES / N_SAMPLES
    proposals = HORIZON * (few * counted(policy, latents) + few * counted(dynamics, joint))
    return int(counted(encoder, th.zeros(1, observation_dim)) + proposals + N_ITERATIONS * (HORIZON * step + last))


def dreamer(observation_dim: int, action_dim: int, n_samples: int) -> int:
    """``n_samples`` imagined rollouts of DreamerV3's model, as a planner with TD-MPC2's budget would make them.

    DreamerV3 itself acts with its policy alone, which is ``n_samples=0``: encoder, one step of the state, actor.
    """
    encoder = _mlp(observation_dim, UNITS, UNITS)
    cell, embed = nn.GRUCell(UNITS, DETERMINISTIC), _mlp(STOCHASTIC + action_dim, UNITS)
    prior, posterior = _mlp(DETERMINISTIC, UNITS, STOCHASTIC), _mlp(DETERMINISTIC + UNITS, UNITS, STOCHASTIC)
    head, actor = (
        _mlp(DETERMINISTIC + STOCHASTIC, UNITS, UNITS, 255),
        _mlp(DETERMINISTIC + STOCHASTIC, UNITS, UNITS, 2 * action_dim),
    )

    def state(n: int) -> int:
        inputs, features = th.zeros(n, STOCHASTIC + action_dim), th.zeros(n, DETERMINISTIC + STOCHASTIC)
        gates = 2 * 3 * DETERMINISTIC * (UNITS + DETERMINISTIC) * n
        assert sum(p.numel() for p in cell.parameters() if p.ndim == 2) * 2 * n == gates
        return counted(embed, inputs) + gates + counted(actor, features)

    acting = counted(encoder, th.zeros(1, observation_dim)) + state(1)
    acting += counted(posterior, th.zeros(1, DETERMINISTIC + UNITS))
    if n_samples == 0:
        return acting
    imagined = state(n_samples) + counted(prior, th.zeros(n_samples, DETERMINISTIC))
    imagined += counted(head, th.zeros(n_samples, DETERMINISTIC + STOCHASTIC))
    value = counted(head, th.zeros(n_samples, DETERMINISTIC + STOCHASTIC))
    return acting + DREAMER_HORIZON * imagined + value
