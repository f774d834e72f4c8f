"""The algorithm in rl-zoo3: importing this package registers it there as ``ezv2``.

Registered are the class, its Optuna search space and the ids of the dm_control tasks and of small Atari games, so
that scripts built on rl-zoo3 know them too::

    import sb3_ezv2.zoo
    from rl_zoo3.train import train

    train()
"""

try:
    import rl_zoo3
    from rl_zoo3 import hyperparams_opt
except ImportError as error:
    raise ImportError(
        f"{error.name} is missing; the zoo needs the extra: pip install 'sb3_ezv2[zoo]'", name=error.name
    ) from error

from sb3_ezv2.envs.atari import register_small_atari
from sb3_ezv2.envs.dmc import register_dmc
from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.zoo.search_space import convert_ezv2_params, sample_ezv2_params

ALGO = "ezv2"
"""Name of the algorithm in the zoo."""

rl_zoo3.ALGOS[ALGO] = EfficientZeroV2
hyperparams_opt.HYPERPARAMS_SAMPLER[ALGO] = sample_ezv2_params
hyperparams_opt.HYPERPARAMS_CONVERTER[ALGO] = convert_ezv2_params
register_dmc()
register_small_atari()
