"""Augmentation depends on seed, epoch and sample alone, and changes images within the configured limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.data.images.augment import Augmentation, _Rotation

NONE = {"rotation_degrees": 0.0, "brightness": 0.0, "contrast": 0.0}
ALL = {"rotation_degrees": 5.0, "brightness": 0.2, "contrast": 0.2}


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def changes(samples: list[int], channels: int = 3, size: int = 32, *, seed: int = 0, epoch: int = 1, **settings: float):
    which = torch.tensor(samples)
    cpu = torch.device("cpu")
    return Augmentation(seed=seed, epoch=epoch, samples=which, shape=(channels, size), device=cpu, **settings)


def augment(x: torch.Tensor, *, seed: int = 0, epoch: int = 1, **settings: float) -> torch.Tensor:
    """All of the images, as the first samples of their split; values in [0, 1]."""
    drawn = changes([*range(len(x))], x.shape[1], x.shape[2], seed=seed, epoch=epoch, **settings)
    return drawn.apply(x * 255)


def rotate(x: torch.Tensor, angles: torch.Tensor, largest: float) -> torch.Tensor:
    return _Rotation(angles, largest, x.shape[1], x.shape[2]).apply(x, 0)


def test_images_stay_the_same_without_augmentation() -> None:
    x = images()
    assert torch.allclose(augment(x, **NONE), x, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_is_augmented_the_same_way_in_any_batch(channels: int) -> None:
    x = images()[:, :channels]
    whole = augment(x, seed=1, epoch=2, **ALL)
    alone = changes([2], channels, seed=1, epoch=2, **ALL).apply(x[2:3] * 255)
    # Values from 0 to 1 in float32. A kernel may round differently where a vector of values begins elsewhere.
    assert torch.allclose(whole[2:3], alone, atol=1e-6)
    drawn = changes([0, 1, 2, 3], channels, seed=1, epoch=2, **ALL)
    parts = [drawn.apply(x[:3] * 255), drawn.apply(x[3:] * 255, first=3)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-6)
    assert not torch.allclose(augment(x, seed=1, epoch=3, **ALL), whole)
    assert not torch.allclose(augment(x, seed=2, epoch=2, **ALL), whole)


@pytest.mark.parametrize("degrees", [0.0, 5.0, 180.0])
def test_uint8_images_are_augmented_like_floats_and_not_modified(degrees: float) -> None:
    bytes_ = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = bytes_.clone()
    drawn = changes([0, 1, 2, 3], **{**ALL, "rotation_degrees": degrees})
    changed = drawn.apply(bytes_)
    assert changed.dtype == torch.float32
    assert torch.equal(bytes_, before)
    assert torch.allclose(changed, drawn.apply(bytes_.float()), atol=1e-6)


def test_rotation_turns_by_at_most_the_given_angle_and_fills_with_the_edge() -> None:
    white = torch.ones(64, 1, 32, 32)
    white[:, :, 12:20, 12:20] = 0.0
    turned = augment(white, **{**NONE, "rotation_degrees": 5.0})
    assert torch.allclose(turned[:, :, 0], torch.ones(64, 1, 32))  # no black corners
    # A corner of the square moves by at most radius * angle = 5.7 * 0.087 = 0.5 pixels.
    assert (turned[:, :, 14:18, 14:18] == 0).all()
    assert (turned != white).flatten(1).any(dim=1).float().mean() > 0.9


@pytest.mark.parametrize("quarters", [-4, -3, -2, -1, 0, 1, 2, 3, 4])
def test_a_quarter_turn_is_exact(quarters: int) -> None:
    x = images(1)
    turned = rotate(x, torch.tensor([quarters * math.pi / 2]), 2 * math.pi)
    assert torch.allclose(turned, torch.rot90(x, quarters, (2, 3)), atol=1e-4)


@pytest.mark.parametrize("degrees", [5, 30, 45, 60, 180])
def test_rotation_equals_resampling_of_a_smooth_image(degrees: int) -> None:
    y, x = torch.meshgrid(torch.linspace(0, 6, 96), torch.linspace(0, 6, 96), indexing="ij")
    smooth = torch.stack([torch.sin(x) * torch.cos(0.7 * y), 0.1 * x + 0.2 * y]).repeat(9, 1, 1, 1)
    angles = torch.linspace(-1, 1, 9) * math.radians(degrees)
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros(9)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(smooth.shape), align_corners=False)
    expected = F.grid_sample(smooth, grid, padding_mode="border", align_corners=False)
    turned = rotate(smooth, angles, math.radians(degrees))
    # Inside, where nothing comes from beyond the edge, and near the edge.
    assert (turned - expected)[:, :, 28:68, 28:68].abs().max() < 2e-3
    assert (turned - expected).abs().mean() < (2e-3 if degrees == 5 else 0.2)


def test_rotation_by_zero_changes_nothing() -> None:
    x = images(3)
    assert torch.allclose(rotate(x, torch.zeros(3), 0.1), x, atol=1e-6)


def test_brightness_scales_within_its_range() -> None:
    gray = torch.full((500, 1, 32, 32), 0.5)
    values = augment(gray, **{**NONE, "brightness": 0.2})[:, 0, 0, 0]
    assert 0.4 <= values.min() < 0.41
    assert 0.59 < values.max() <= 0.6


def test_contrast_keeps_the_mean_and_scales_the_distance_from_it() -> None:
    x = torch.rand(300, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    changed = augment(x, **{**NONE, "contrast": 0.2})
    assert torch.allclose(changed.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)), atol=1e-5)
    factor = changed.std(dim=(1, 2, 3)) / x.std(dim=(1, 2, 3))
    assert 0.8 - 1e-4 <= factor.min() < 0.82
    assert 1.18 < factor.max() <= 1.2 + 1e-4


def test_nothing_is_mirrored() -> None:
    x = images(50)
    changed = augment(x, **ALL)
    for one, two in zip(x, changed, strict=True):
        assert (one - two).abs().mean() < (one.flip(-1) - two).abs().mean()
