from __future__ import annotations

import torch

from dbbd_cli.data.augment import augment

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


def test_a_quarter_turn_is_exact() -> None:
    from dbbd_cli.data.augment import _rotate

    x = images(1)
    turned = _rotate(x, torch.tensor([torch.pi / 2]))
    assert torch.allclose(turned, torch.rot90(x, 1, (2, 3)), atol=1e-4) or torch.allclose(
        turned, torch.rot90(x, -1, (2, 3)), atol=1e-4
    )


def test_rotation_fills_as_border_padding_does() -> None:
    from dbbd_cli.data.augment import _rotate

    x, angles = images(8), torch.linspace(-0.5, 0.5, 8)
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros(8)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(x.shape), align_corners=False)
    expected = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(_rotate(x, angles), expected, atol=1e-5)


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
