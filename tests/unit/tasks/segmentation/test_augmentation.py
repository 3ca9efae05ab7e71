"""Augmentation does what its settings say, and depends on seed, epoch and scene alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.tasks.segmentation.augmentation import Augmented, augment
from dbbd_cli.tasks.segmentation.config import AugmentationConfig

SIZES = [400, 300, 500]
NOTHING: dict[str, Any] = {"rotation_degrees": 0.0, "scale": 0.0, "flip": False, "color_jitter": 0.0}


def points() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coord = torch.rand(sum(SIZES), 3, generator=generator) * 4
    normal = torch.nn.functional.normalize(torch.randn(sum(SIZES), 3, generator=generator), dim=1)
    color = torch.randint(0, 256, (sum(SIZES), 3), generator=generator, dtype=torch.uint8)
    return coord, normal, color


def changed(scenes: tuple[int, ...] = (0, 1, 2), epoch: int = 1, seed: int = 3, **settings: Any) -> Augmented:
    starts = np.cumsum([0, *SIZES])
    rows = np.concatenate([np.arange(starts[scene], starts[scene + 1]) for scene in scenes])
    coord, normal, color = (part[rows] for part in points())
    sizes = torch.tensor([SIZES[scene] for scene in scenes])
    options = AugmentationConfig(**{**NOTHING, **settings})
    return augment(coord, normal, color, sizes, options, seed=seed, epoch=epoch, samples=np.array(scenes))


def test_without_augmentation_nothing_changes() -> None:
    coord, normal, color = points()
    found = changed()
    assert torch.allclose(found.coord, coord)
    assert torch.allclose(found.normal, normal)
    assert found.color is not None
    assert torch.equal(found.color, color)
    assert found.is_hidden is None


ALL: dict[str, Any] = {
    "rotation_degrees": 180.0, "scale": 0.2, "flip": True, "jitter": 0.1, "color_jitter": 0.3, "point_dropout": 0.3,
}  # fmt: skip


def test_a_scene_changes_the_same_way_in_any_batch_and_otherwise_in_another_epoch() -> None:
    together, alone, later = changed(**ALL), changed((1,), **ALL), changed((1,), epoch=2, **ALL)
    part = slice(SIZES[0], SIZES[0] + SIZES[1])
    for name in Augmented._fields:
        whole, one, other = (getattr(found, name) for found in (together, alone, later))
        assert torch.equal(whole[part], one)
        assert not torch.equal(one, other)


def test_a_rotation_keeps_heights_and_distances_and_turns_normals_along() -> None:
    coord, normal, _ = points()
    found = changed((0,), rotation_degrees=180.0)
    coord, normal = coord[: SIZES[0]], normal[: SIZES[0]]
    assert torch.equal(found.coord[:, 2], coord[:, 2])
    assert torch.allclose(torch.pdist(found.coord), torch.pdist(coord), atol=1e-4)
    turned = torch.linalg.lstsq(coord, found.coord).solution
    assert torch.linalg.det(turned) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(normal @ turned, found.normal, atol=1e-3)


def test_every_second_scene_is_mirrored() -> None:
    coord = points()[0][: SIZES[0]]
    signs = [
        round(float(torch.linalg.det(torch.linalg.lstsq(coord, changed((0,), epoch=epoch, flip=True).coord).solution)))
        for epoch in range(60)
    ]
    assert set(signs) == {-1, 1}
    assert abs(sum(signs)) < 25


def test_scale_is_within_its_limits() -> None:
    coord = points()[0][: SIZES[0]]
    factors = [float((changed((0,), epoch=epoch, scale=0.2).coord / coord).median()) for epoch in range(40)]
    assert 0.8 <= min(factors) < 0.85
    assert 1.15 < max(factors) <= 1.2


def test_jitter_has_its_standard_deviation_and_no_direction() -> None:
    noise = changed(jitter=0.05).coord - points()[0]
    assert noise.std(0).tolist() == pytest.approx([0.05] * 3, rel=0.1)
    assert noise.mean(0).abs().max() < 0.006


def test_dropout_hides_its_share_of_the_points() -> None:
    hidden = changed(point_dropout=0.25).is_hidden
    assert hidden is not None
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_colors_stay_within_their_range() -> None:
    found = changed(color_jitter=1.0).color
    assert found is not None
    assert 0 <= float(found.min()) < float(found.max()) <= 255
    assert not torch.equal(found, points()[2].float())
