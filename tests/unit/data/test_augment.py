from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from dbbd_cli.data.augment import _rotate, augment

NONE = {"rotation_degrees": 0.0, "brightness": 0.0, "contrast": 0.0}


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_no_settings_change_nothing() -> None:
    x = images()
    assert torch.equal(augment(x, seed=1, epoch=1, samples=torch.arange(4), **NONE), x)


def test_a_sample_is_changed_the_same_way_in_any_batch() -> None:
    x = images()
    settings = {"rotation_degrees": 5.0, "brightness": 0.2, "contrast": 0.2}
    whole = augment(x, seed=1, epoch=2, samples=torch.arange(4), **settings)
    alone = augment(x[2:3], seed=1, epoch=2, samples=torch.tensor([2]), **settings)
    assert torch.equal(whole[2:3], alone)
    assert not torch.allclose(augment(x, seed=1, epoch=3, samples=torch.arange(4), **settings), whole)
    assert not torch.allclose(augment(x, seed=2, epoch=2, samples=torch.arange(4), **settings), whole)


def test_rotation_turns_by_at_most_the_given_angle_and_fills_with_the_edge() -> None:
    white = torch.ones(64, 1, 32, 32)
    white[:, :, 12:20, 12:20] = 0.0
    turned = augment(white, seed=0, epoch=1, samples=torch.arange(64), **{**NONE, "rotation_degrees": 5.0})
    assert torch.allclose(turned[:, :, 0], torch.ones(64, 1, 32))  # no black corners
    # A corner of the square moves by at most radius * angle = 5.7 * 0.087 = 0.5 pixels.
    assert (turned[:, :, 14:18, 14:18] == 0).all()
    assert (turned != white).flatten(1).any(dim=1).float().mean() > 0.9


@pytest.mark.parametrize("quarters", [-4, -3, -2, -1, 0, 1, 2, 3, 4])
def test_a_quarter_turn_is_exact(quarters: int) -> None:
    x = images(1)
    turned = _rotate(x, torch.tensor([quarters * math.pi / 2]), 2 * math.pi)
    assert torch.allclose(turned, torch.rot90(x, quarters, (2, 3)), atol=1e-4)


@pytest.mark.parametrize("degrees", [5, 30, 45, 60, 180])
def test_rotation_is_that_of_a_smooth_image_sampled_anew(degrees: int) -> None:
    y, x = torch.meshgrid(torch.linspace(0, 6, 96), torch.linspace(0, 6, 96), indexing="ij")
    smooth = torch.stack([torch.sin(x) * torch.cos(0.7 * y), 0.1 * x + 0.2 * y]).repeat(9, 1, 1, 1)
    angles = torch.linspace(-1, 1, 9) * math.radians(degrees)
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros(9)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(smooth.shape), align_corners=False)
    expected = F.grid_sample(smooth, grid, padding_mode="border", align_corners=False)
    turned = _rotate(smooth, angles, math.radians(degrees))
    # Inside, where nothing comes from beyond the edge, and near the edge.
    assert (turned - expected)[:, :, 28:68, 28:68].abs().max() < 2e-3
    assert (turned - expected).abs().mean() < (2e-3 if degrees == 5 else 0.2)


def test_a_rotation_by_nothing_changes_nothing() -> None:
    x = images(3)
    assert torch.equal(_rotate(x, torch.zeros(3), 0.1), x)


def test_brightness_scales_within_its_range() -> None:
    grey = torch.full((500, 1, 32, 32), 0.5)
    values = augment(grey, seed=0, epoch=1, samples=torch.arange(500), **{**NONE, "brightness": 0.2})[:, 0, 0, 0]
    assert 0.4 <= values.min() < 0.41
    assert 0.59 < values.max() <= 0.6


def test_contrast_keeps_the_mean_and_scales_the_distance_from_it() -> None:
    x = torch.rand(300, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    changed = augment(x, seed=0, epoch=1, samples=torch.arange(300), **{**NONE, "contrast": 0.2})
    assert torch.allclose(changed.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)), atol=1e-5)
    factor = changed.std(dim=(1, 2, 3)) / x.std(dim=(1, 2, 3))
    assert 0.8 - 1e-4 <= factor.min() < 0.82
    assert 1.18 < factor.max() <= 1.2 + 1e-4


def test_nothing_is_mirrored() -> None:
    x = images(50)
    changed = augment(x, seed=0, epoch=1, samples=torch.arange(50), rotation_degrees=5.0, brightness=0.2, contrast=0.2)
    for one, two in zip(x, changed, strict=True):
        assert (one - two).abs().mean() < (one.flip(-1) - two).abs().mean()
