"""Representation and dynamics for vector observations."""

import torch as th
from torch import nn

from sb3_ezv2.networks.layers import ResidualBlock

ACTION_EMBEDDING_DIM = 64
FEATURE_GAIN = 1.5


class MlpRepresentation(nn.Module):
    """``H``: normalised observation to latent state (paper, appendix on architectures).

    The first layer starts with steep, shifted tanh units that cover the range of the observations (a normal weight
    matrix with a gain, uniform biases). A LayerNorm there would throw away how large a low-dimensional observation is.

    :param observation_dim: size of the flattened observation
    :param latent_dim: size of the latent state
    :param hidden_dims: hidden size of every residual block
    :param activation_fn: of the residual blocks
    """

    def __init__(
        self,
        observation_dim: int,
        latent_dim: int,
        hidden_dims: tuple[int, ...],
        activation_fn: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        features = nn.Linear(observation_dim, latent_dim)
        nn.init.normal_(features.weight, std=FEATURE_GAIN / observation_dim**0.5)
        nn.init.uniform_(features.bias, -FEATURE_GAIN, FEATURE_GAIN)
        self.layers = nn.Sequential(
            features,
            nn.Tanh(),
            *(ResidualBlock(latent_dim, hidden_dim, activation_fn) for hidden_dim in hidden_dims),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """``[batch, observation_dim] -> [batch, latent_dim]``."""
        return self.layers(observations)


class MlpDynamics(nn.Module):
    """``G``: latent state and action to the next latent state, as a residual.

    :param action_dim: size of the encoded action
    :param latent_dim: size of the latent state
    :param hidden_dims: hidden size of every residual block; the first one is also that of the step before them
    :param activation_fn: of all layers
    """

    def __init__(
        self,
        action_dim: int,
        latent_dim: int,
        hidden_dims: tuple[int, ...],
        activation_fn: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.embed_action = nn.Sequential(
            nn.Linear(action_dim, ACTION_EMBEDDING_DIM), nn.LayerNorm(ACTION_EMBEDDING_DIM), activation_fn()
        )
        joint_dim = latent_dim + ACTION_EMBEDDING_DIM
        self.combine = nn.Sequential(
            nn.LayerNorm(joint_dim),
            nn.Linear(joint_dim, hidden_dims[0]),
            activation_fn(),
            nn.Linear(hidden_dims[0], latent_dim),
        )
        self.blocks = nn.Sequential(
            *(ResidualBlock(latent_dim, hidden_dim, activation_fn) for hidden_dim in hidden_dims)
        )

    def forward(self, latents: th.Tensor, encoded_actions: th.Tensor) -> th.Tensor:
        """``[batch, latent_dim], [batch, action_dim] -> [batch, latent_dim]``."""
        joint = th.cat([latents, self.embed_action(encoded_actions)], dim=-1)
        return self.blocks(latents + self.combine(joint))
