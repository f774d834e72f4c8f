"""Random shifts and intensities of images."""

from __future__ import annotations

import pytest
import torch as th

from sb3_ezv2.networks.augmentation import MAX_SHIFT, random_intensity, random_shift


def generator(seed: int = 0) -> th.Generator:
    return th.Generator().manual_seed(seed)


def shifted(image: th.Tensor, down: int, right: int) -> th.Tensor:
    """``image [channels, height, width]`` moved pixel by pixel, the slow way."""
    _, height, width = image.shape
    result = th.empty_like(image)
    for row in range(height):
        for column in range(width):
            source = min(max(row - down, 0), height - 1), min(max(column - right, 0), width - 1)
            result[:, row, column] = image[:, source[0], source[1]]
    return result


def offsets(before: th.Tensor, after: th.Tensor) -> tuple[int, int]:
    """How far a bright pixel in the middle of the first channel was moved."""
    (old,), (new,) = before[0].eq(255).nonzero(), after[0].eq(255).nonzero()
    return tuple((new - old).tolist())


def marked_images(n: int, n_channels: int = 3, height: int = 16, width: int = 20) -> th.Tensor:
    """Random bytes up to 200, with a pixel of 255 in the middle of every channel."""
    images = th.randint(0, 200, (n, n_channels, height, width), dtype=th.uint8, generator=generator(1))
    images[:, :, height // 2, width // 2] = 255
    return images


@pytest.mark.parametrize("n_channels", [1, 3, 12])
def test_a_shift_moves_the_whole_image_and_all_channels_alike(n_channels):
    images = marked_images(40, n_channels)
    moved = random_shift(images, generator=generator())
    assert moved.shape == images.shape and moved.dtype == th.uint8
    for before, after in zip(images, moved, strict=True):
        assert th.equal(after, shifted(before, *offsets(before, after)))


def test_every_shift_happens_and_none_beyond_the_limit():
    images = marked_images(2_000)
    moved = random_shift(images, generator=generator())
    found = {offsets(before, after) for before, after in zip(images, moved, strict=True)}
    reach = range(-MAX_SHIFT, MAX_SHIFT + 1)
    assert found == {(down, right) for down in reach for right in reach}


def test_no_shift_changes_nothing():
    images = marked_images(5)
    assert th.equal(random_shift(images, max_shift=0), images)


def test_a_uniform_image_stays_as_it_is():
    images = th.full((6, 2, 9, 7), 13, dtype=th.uint8)
    assert th.equal(random_shift(images), images)


def test_leading_axes_are_kept_and_every_image_moves_on_its_own():
    images = marked_images(1).expand(4, 6, 3, 16, 20)
    moved = random_shift(images, generator=generator())
    assert moved.shape == images.shape
    flat = [offsets(images[0, 0], image) for image in moved.flatten(0, 1)]
    assert len(set(flat)) > 10
    assert th.equal(moved.flatten(0, 1), random_shift(images.flatten(0, 1), generator=generator()))


def test_intensity_is_one_factor_per_image_within_its_limits():
    images = th.rand(3_000, 2, 4, 4, generator=generator(2)) + 0.5
    factors = random_intensity(images.clone(), generator=generator()) / images
    per_image = factors.flatten(1)
    assert th.allclose(per_image, per_image[:, :1].expand_as(per_image), atol=1e-5)
    first = per_image[:, 0]
    assert first.min() >= 0.9 - 1e-5 and first.max() <= 1.1 + 1e-5
    assert abs(float(first.mean()) - 1.0) < 0.005
    # The standard deviation of a normal number that is clipped at 2 is 0.96.
    assert abs(float(first.std()) - 0.05 * 0.96) < 0.003
    assert th.equal(random_intensity(images.clone(), scale=0.0), images)


def test_the_range_is_exceeded_by_a_tenth_at_most():
    changed = random_intensity(marked_images(50).float(), generator=generator())
    assert 200 < changed.max() <= 255 * 1.1 + 1e-3 and changed.min() >= 0


@pytest.mark.parametrize("change", [random_shift, random_intensity])
def test_one_seed_one_result(change):
    images = marked_images(7).float()
    first = change(images.clone(), generator=generator(3))
    assert th.equal(first, change(images.clone(), generator=generator(3)))
    assert not th.equal(first, change(images.clone(), generator=generator(4)))
    th.manual_seed(5)
    first = change(images.clone())
    th.manual_seed(5)
    assert th.equal(first, change(images.clone()))


def test_a_shift_leaves_the_images_given_as_they_are_and_intensity_does_not():
    images = marked_images(3).float()
    before = images.clone()
    assert random_shift(images, generator=generator()) is not images
    assert th.equal(images, before)
    assert random_intensity(images, generator=generator()) is images
    assert not th.equal(images, before)
