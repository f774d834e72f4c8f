"""From numpy to torch."""

import torch as th

from sb3_ezv2.type_aliases import ObservationArrays


def to_tensors(observations: ObservationArrays, device: th.device) -> dict[str, th.Tensor]:
    """Observations by key as tensors on ``device``."""
    return {key: th.as_tensor(value, device=device) for key, value in observations.items()}
