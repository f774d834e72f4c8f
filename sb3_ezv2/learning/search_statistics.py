"""What searches add to the network that they begin with."""

import numpy as np
import torch as th
import torch.nn.functional as F

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.common.type_aliases import Plan
from sb3_ezv2.networks.model import EfficientZeroModel

N_STATES = 64
"""Searched states that are looked at."""


@th.no_grad()
def search_statistics(
    model: EfficientZeroModel, observations: dict[str, th.Tensor], plan: Plan, masks: np.ndarray | None = None
) -> dict[str, th.Tensor]:
    """Scalars on the model's device: entropies, departures from the policy's best candidate, gain in value.

    :param model: that was searched with, in evaluation mode
    :param observations: that were searched ``[n, ...]``; the first :data:`N_STATES` count
    :param plan: of these observations
    :param masks: of the legal choices ``[n, mask_size]``; ``None`` for all
    """
    device = model.reward_scale.device
    root = model.initial_inference({key: part[:N_STATES] for key, part in observations.items()})
    improved = on_device(np.ascontiguousarray(plan.improved_policy[:N_STATES]), device)
    prior, preference = candidate_prior(model.action_kind, root.policies, plan.candidates[:N_STATES], masks)
    departs = improved.argmax(1) != preference.argmax(1)
    return {
        "policy_entropy": entropy(prior),
        "improved_policy_entropy": entropy(improved),
        "departure_rate": departs.float().mean(),
        "value_gain": (on_device(plan.improved_values[:N_STATES], device) - root.values).mean(),
    }


def candidate_prior(
    kind: ActionKind, outputs: th.Tensor, candidates: np.ndarray, masks: np.ndarray | None = None
) -> tuple[th.Tensor, th.Tensor]:
    """The prior over a search's candidates, and how much the policy prefers each, both ``[n, n_candidates]``.

    :param kind: of the actions
    :param outputs: of the policy network ``[n, output_dim]``
    :param candidates: of the search ``[n, n_candidates, *shape]``
    :param masks: of the search ``[>= n, mask_size]``; ``None`` for none
    :return: probabilities, uniform over sampled candidates; and the log density (or log probability) of each
    """
    if not kind.sampled:
        legal = {} if masks is None else {"masks": on_device(masks[: len(outputs)], outputs.device)}
        logits = kind.candidates(outputs, outputs[:, :0].unsqueeze(1), explore=False, **legal).logits
        return logits.softmax(dim=1), logits
    n, n_candidates = candidates.shape[:2]
    actions = on_device(np.ascontiguousarray(candidates), outputs.device)
    return outputs.new_ones(n, n_candidates) / n_candidates, kind.log_prob(outputs, actions)


def entropy(probabilities: th.Tensor) -> th.Tensor:
    """Mean entropy in nats of distributions ``[n, n_actions]``."""
    return F.relu(th.special.entr(probabilities).sum(dim=1)).mean()
