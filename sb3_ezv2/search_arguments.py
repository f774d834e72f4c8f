"""The arguments of a search, which the algorithm and its policies share."""

from dataclasses import dataclass
from typing import Annotated

from sb3_ezv2.common.arguments import FIXED, ArgumentGroup, Real, Whole
from sb3_ezv2.common.type_aliases import NO_LIMIT
from sb3_ezv2.planning.planner import Planner

MOST_SIMULATIONS = 10_000


@dataclass(frozen=True)
class SearchArguments(ArgumentGroup):
    """How a policy searches.

    :param gamma: discount of one step
    :param n_simulations: model calls per search
    :param n_candidates: actions sampled at the root of a continuous search; ``Discrete`` always considers all
    :param n_considered: candidates that sequential halving starts with; ``None`` for half the simulations, at most all
    :param max_depth: steps that a search looks ahead at most; ``None`` for no limit
    :param n_policy_candidates: candidates that come from the policy itself while exploring
    :param flatten_factor: multiplies the standard deviation of the policy that the other candidates come from
    """

    gamma: Annotated[float, Real(0.0, 1.0), FIXED] = 0.99
    n_simulations: Annotated[int, Whole(1, MOST_SIMULATIONS)] = 16
    n_candidates: Annotated[int, Whole(1, MOST_SIMULATIONS), FIXED] = 16
    n_considered: Annotated[int | None, Whole(1, MOST_SIMULATIONS)] = None
    max_depth: Annotated[int | None, Whole(1, MOST_SIMULATIONS)] = None
    n_policy_candidates: Annotated[int, Whole(0, MOST_SIMULATIONS), FIXED] = 4
    flatten_factor: Annotated[float, Real(1.0, 1e3), FIXED] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        Whole(0, self.n_candidates, "the number of candidates")("n_policy_candidates", self.n_policy_candidates)

    def planner(self, n_candidates: int) -> Planner:
        """What searches in this way.

        :param n_candidates: actions that there are at a root
        :raises ValueError: if there are fewer of them than ``n_considered``
        """
        considered = self.n_considered or max(1, min(self.n_simulations // 2, n_candidates))
        if considered > n_candidates:
            raise ValueError(
                f"n_considered={considered} must lie between 1 and the number of candidates, {n_candidates}; lower it "
                "or raise n_candidates"
            )
        return Planner(self.n_simulations, considered, self.gamma, self.max_depth or NO_LIMIT)
