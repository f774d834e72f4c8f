"""Representation, dynamics and heads for images, after the sizes in EfficientZero V2, appendix on architectures.

Latent states are images of several channels. Normalisation is by ``BatchNorm``: the images of a task have most of their
pixels in common, and what is common to a batch is what it takes away. The model that is trained uses the statistics of
its batches; its copies, which act and search, use running ones (see :class:`sb3_ezv2.policies.PlanningPolicy`).
"""

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_ezv2.networks.layers import start_at_zero

SMALL_IMAGE = 64
"""Images with a side shorter than this are pooled once instead of twice, so that their latent state keeps 4 positions
along it. The paper's images have 96 pixels per side."""
VECTOR_DIM = 64
"""Hidden size of the embedding of a vector that comes with the image."""


def n_poolings(height: int, width: int) -> int:
    """How often the representation pools an image, after two convolutions that halve it too."""
    return 1 if min(height, width) < SMALL_IMAGE else 2


def latent_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the latent state of an image; every halving rounds up."""
    divisor = 2 ** (2 + n_poolings(height, width))
    return -(-height // divisor), -(-width // divisor)


def _conv(n_inputs: int, n_outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution without bias, for use before a normalisation."""
    return nn.Conv2d(n_inputs, n_outputs, 3, stride, padding=1, bias=False)


class ConvBlock(nn.Module):
    """``relu(skip(x) + norm(W2 relu(norm(W1 x))))``: a residual block of two 3 x 3 convolutions.

    The skip connection is the identity, or a convolution where the block changes the size of its input.

    :param n_inputs: channels of the input
    :param n_outputs: channels of the output
    :param stride: 2 to halve height and width
    """

    def __init__(self, n_inputs: int, n_outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv(n_inputs, n_outputs, stride),
            nn.BatchNorm2d(n_outputs),
            nn.ReLU(),
            _conv(n_outputs, n_outputs),
            nn.BatchNorm2d(n_outputs),
        )
        same = n_inputs == n_outputs and stride == 1
        self.skip = nn.Identity() if same else _conv(n_inputs, n_outputs, stride)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """``[batch, n_inputs, height, width] -> [batch, n_outputs, height / stride, width / stride]``."""
        return th.relu(self.skip(x) + self.residual(x))


class ConvRepresentation(nn.Module):
    """``H``: image to latent state, a sixteenth of its height and width, or an eighth if the image is small.

    A vector that comes with the image enters the latent state as constant planes, as an action does later.

    :param image_shape: channels, height and width
    :param vector_dim: size of the vector, 0 for none
    :param stem_channels: channels at half of the size
    :param latent_channels: channels from a quarter of the size on
    """

    def __init__(
        self, image_shape: tuple[int, int, int], vector_dim: int, stem_channels: int, latent_channels: int
    ) -> None:
        super().__init__()
        n_channels, height, width = image_shape
        pooled = [
            layer
            for _ in range(n_poolings(height, width))
            for layer in (
                nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
                ConvBlock(latent_channels, latent_channels),
            )
        ]
        self.layers = nn.Sequential(
            _conv(n_channels, stem_channels, stride=2),
            nn.BatchNorm2d(stem_channels),
            nn.ReLU(),
            ConvBlock(stem_channels, stem_channels),
            ConvBlock(stem_channels, latent_channels, stride=2),
            ConvBlock(latent_channels, latent_channels),
            *pooled,
        )
        if vector_dim > 0:
            self.embed_vector = nn.Sequential(
                nn.Linear(vector_dim, VECTOR_DIM), nn.ReLU(), nn.Linear(VECTOR_DIM, latent_channels)
            )
            self.combine = ConvBlock(latent_channels, latent_channels)

    def forward(self, images: th.Tensor, vectors: th.Tensor) -> th.Tensor:
        """``[batch, n_channels, height, width], [batch, vector_dim] -> [batch, latent_channels, *latent_size]``."""
        latents = self.layers(images)
        if vectors.shape[-1] == 0:
            return latents
        return self.combine(latents + self.embed_vector(vectors)[:, :, None, None])


class ConvDynamics(nn.Module):
    """``G``: latent state and action to the next latent state, as a residual.

    An action is a constant plane for each of its numbers. A 1 x 1 convolution of constant planes is a constant plane
    again, so it is computed once, as a linear layer, and then spread over all positions.

    :param action_dim: size of the encoded action
    :param latent_channels: channels of the latent state
    :param action_channels: channels of the embedded action
    """

    def __init__(self, action_dim: int, latent_channels: int, action_channels: int) -> None:
        super().__init__()
        self.embed_action = nn.Sequential(
            nn.Linear(action_dim, action_channels), nn.LayerNorm(action_channels), nn.ReLU()
        )
        self.combine = nn.Sequential(
            _conv(latent_channels + action_channels, latent_channels), nn.BatchNorm2d(latent_channels)
        )
        self.block = ConvBlock(latent_channels, latent_channels)

    def forward(self, latents: th.Tensor, encoded_actions: th.Tensor) -> th.Tensor:
        """``[batch, channels, height, width], [batch, action_dim] -> [batch, channels, height, width]``."""
        embedded = self.embed_action(encoded_actions)
        planes = embedded[:, :, None, None].expand(-1, -1, *latents.shape[-2:])
        return self.block(th.relu(latents + self.combine(th.cat([latents, planes], dim=1))))


class SpatialHeads(nn.Module):
    """Several heads on a common residual block: 1 x 1 convolution, hidden layer, output layer that starts at zero.

    The convolutions of all heads are one, so that several heads cost little more than one.

    :param latent_shape: channels, height and width of a latent state
    :param head_channels: channels that each head flattens
    :param hidden_dim: size of the hidden layer of each head
    :param output_dims: size of the output of each head; ``None`` for a head that gives its flattened channels
    """

    def __init__(
        self,
        latent_shape: tuple[int, int, int],
        head_channels: int,
        hidden_dim: int,
        output_dims: tuple[int | None, ...],
    ) -> None:
        super().__init__()
        channels, height, width = latent_shape
        features_dim = head_channels * height * width
        self.head_channels = head_channels
        self.block = ConvBlock(channels, channels)
        self.squeeze = nn.Conv2d(channels, head_channels * len(output_dims), 1)
        self.hidden = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(head_channels),
                nn.ReLU(),
                nn.Flatten(),
                *(() if n is None else (nn.Linear(features_dim, hidden_dim), nn.ReLU())),
            )
            for n in output_dims
        )
        self.outputs = nn.ModuleList(nn.Identity() if n is None else nn.Linear(hidden_dim, n) for n in output_dims)
        start_at_zero(self.outputs)

    def one(self, x: th.Tensor, index: int) -> th.Tensor:
        """``[..., channels, height, width]`` to the output of one head."""
        rows = slice(index * self.head_channels, (index + 1) * self.head_channels)
        assert self.squeeze.bias is not None
        squeezed = F.conv2d(self.block(x.flatten(0, -4)), self.squeeze.weight[rows], self.squeeze.bias[rows])
        return self._read(squeezed, index).unflatten(0, x.shape[:-3])

    def forward(self, x: th.Tensor) -> tuple[th.Tensor, ...]:
        """``[..., channels, height, width]`` to the outputs of all heads."""
        squeezed = self.squeeze(self.block(x.flatten(0, -4))).split(self.head_channels, dim=1)
        return tuple(self._read(part, index).unflatten(0, x.shape[:-3]) for index, part in enumerate(squeezed))

    def _read(self, squeezed: th.Tensor, index: int) -> th.Tensor:
        return self.outputs[index](self.hidden[index](squeezed))
