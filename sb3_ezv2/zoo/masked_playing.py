"""Legal actions for the scripts of the zoo that play, which ask no environment for its masks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import rl_zoo3
import rl_zoo3.utils
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.common.action_masks import masks_of, offers_masks
from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.zoo.replacing import replaced
from sb3_ezv2.zoo.stored_models import create_env_as_trained


class MaskedPlaying:
    """Notes the environments that a script makes, and gives predictions the masks of the newest ones."""

    def __init__(self) -> None:
        self.env: VecEnv | None = None  # the newest, if it has masks

    def create(self, *args: Any, **kwargs: Any) -> VecEnv:
        """Environments as :func:`create_env_as_trained` makes them."""
        env = create_env_as_trained(*args, **kwargs)
        self.env = env if offers_masks(env) else None
        return env

    def predict(self, model: EfficientZeroV2, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        """What ``model.predict`` returns for the states that these environments are in."""
        if self.env is not None:
            kwargs.setdefault("action_masks", masks_of(self.env, model.policy.action_kind))
        return _PREDICT(model, *args, **kwargs)


_PREDICT = EfficientZeroV2.predict


@contextmanager
def masks_while_playing() -> Iterator[None]:
    """Within a ``with``, scripts make environments as they were trained with, and play legal actions in them."""
    playing = MaskedPlaying()

    def predict(model: EfficientZeroV2, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any]:
        return playing.predict(model, *args, **kwargs)

    with ExitStack() as stack:
        for holder in (rl_zoo3, rl_zoo3.utils):
            stack.enter_context(replaced(holder, "create_test_env", playing.create))
        stack.enter_context(replaced(EfficientZeroV2, "predict", predict))
        yield
