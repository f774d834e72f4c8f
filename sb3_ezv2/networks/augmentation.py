"""Random changes of images that do not change what they mean (EfficientZero V2, appendix; DrQ, arXiv 2004.13649).

Every function takes images ``[..., channels, height, width]``, treats each of them on its own, and draws from the
generator it is given, or from torch's global one.
"""

import torch as th

MAX_SHIFT = 4
INTENSITY_SCALE = 0.05
MAX_INTENSITY_NOISE = 2.0


def random_shift(images: th.Tensor, max_shift: int = MAX_SHIFT, generator: th.Generator | None = None) -> th.Tensor:
    """Move every image by up to ``max_shift`` pixels in both directions; its edges are repeated.

    :param images: ``[..., channels, height, width]`` of any type; all channels of an image move together
    :param max_shift: largest shift, in pixels
    :param generator: of the shifts, on the device of the images
    :return: same shape and type
    """
    *leading, n_channels, height, width = images.shape
    flat = images.reshape(-1, n_channels, height, width)
    n, device = len(flat), images.device
    shifts = th.randint(-max_shift, max_shift + 1, (2, n, 1), generator=generator, device=device)
    rows = (th.arange(height, device=device) + shifts[0]).clamp(0, height - 1)
    columns = (th.arange(width, device=device) + shifts[1]).clamp(0, width - 1)
    # Rows of all images as one long list: selecting whole rows is much cheaper than selecting pixels.
    firsts = height * th.arange(n * n_channels, device=device).view(n, n_channels, 1)
    moved = flat.reshape(-1, width).index_select(0, (firsts + rows[:, None]).reshape(-1)).view_as(flat)
    return moved.gather(-1, columns[:, None, None].expand_as(flat)).view(*leading, n_channels, height, width)


def random_intensity(
    images: th.Tensor, scale: float = INTENSITY_SCALE, generator: th.Generator | None = None
) -> th.Tensor:
    """Multiply every image, in its place, by ``1 + scale * clip(N(0, 1), -2, 2)``.

    A copy of a batch of images takes longer than the multiplication.

    :param images: ``[..., channels, height, width]`` of floats; overwritten
    :param scale: standard deviation of the factor, before clipping
    :param generator: of the factors, on the device of the images
    :return: the images
    """
    noise = th.randn((*images.shape[:-3], 1, 1, 1), generator=generator, device=images.device)
    return images.mul_(1.0 + scale * noise.clamp(-MAX_INTENSITY_NOISE, MAX_INTENSITY_NOISE))
