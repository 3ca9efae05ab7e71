"""The two views of a scene are random rotations and scalings that depend on seed, epoch and sample alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.data.random_numbers import AUGMENTATION, uniform
from dbbd_cli.data.scenes.views import View, make_views

NUM_POINTS = [5, 17, 30]
SETTINGS: dict[str, Any] = {"seed": 7, "epoch": 3, "rotation_degrees": 180.0, "scale": 0.1}


def scenes(counts: list[int] = NUM_POINTS) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates and normals of scenes, given their numbers of points."""
    coord, normal = [], []
    for count in counts:
        rng = np.random.default_rng(count)
        coord.append(rng.normal(size=(count, 3)))
        direction = rng.normal(size=(count, 3))
        normal.append(direction / np.linalg.norm(direction, axis=1, keepdims=True))
    return tuple(torch.from_numpy(np.concatenate(part).astype(np.float32)) for part in (coord, normal))  # type: ignore[return-value]


def views(counts: list[int] = NUM_POINTS, samples: list[int] | None = None, **changes: Any) -> tuple[View, View]:
    coord, normal = scenes(counts)
    index = np.arange(len(counts)) if samples is None else np.array(samples)
    return make_views(coord, normal, torch.tensor(counts), samples=index, **{**SETTINGS, **changes})


def slow_views(counts: list[int], samples: list[int], **changes: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same, scene by scene and view by view, with a matrix."""
    settings = {**SETTINGS, **changes}
    coord, normal = (part.double().numpy() for part in scenes(counts))
    ends = np.cumsum(counts)
    made = []
    for view in range(2):
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for count, end, sample in zip(counts, ends, samples, strict=True):
            draw = uniform(settings["seed"], settings["epoch"], np.array([sample]), 4, purpose=AUGMENTATION)[0]
            angle = math.radians(settings["rotation_degrees"]) * (2 * draw[view] - 1)
            factor = 1 + settings["scale"] * (2 * draw[2 + view] - 1)
            turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
            parts.append((factor * coord[end - count : end] @ turn.T, normal[end - count : end] @ turn.T))
        made.append((np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])))
    return made


@pytest.mark.parametrize("samples", [[0, 1, 2], [40, 3, 3]])
def test_views_equal_those_of_a_plain_loop(samples: list[int]) -> None:
    for changes in ({}, {"rotation_degrees": 25.0, "scale": 0.5}, {"epoch": 0, "seed": 1}):
        for fast, (coord, normal) in zip(
            views(samples=samples, **changes), slow_views(NUM_POINTS, samples, **changes), strict=True
        ):
            assert fast.normal is not None
            assert fast.coord.dtype == torch.float32
            assert np.abs(fast.coord.numpy() - coord).max() < 1e-6
            assert np.abs(fast.normal.numpy() - normal).max() < 1e-6


def test_scenes_rotate_about_the_vertical_axis_only() -> None:
    coord, normal = scenes()
    for view in views(scale=0.0):
        assert view.normal is not None
        assert torch.equal(view.coord[:, 2], coord[:, 2])
        assert torch.equal(view.normal[:, 2], normal[:, 2])
        assert view.coord[:, :2].norm(dim=1).numpy() == pytest.approx(coord[:, :2].norm(dim=1).numpy(), rel=1e-5)
        assert (view.coord[:, :2] - coord[:, :2]).abs().max() > 0.01


def test_a_scene_keeps_its_shape_and_normals_their_length() -> None:
    coord, _ = scenes()
    ends = np.cumsum([0, *NUM_POINTS])
    for view in views(scale=0.3):
        assert view.normal is not None
        assert view.normal.norm(dim=1).numpy() == pytest.approx(np.ones(sum(NUM_POINTS)), rel=1e-5)
        factors = []
        for start, end in itertools.pairwise(ends):
            factor = torch.pdist(view.coord[start:end]) / torch.pdist(coord[start:end])
            assert float(factor.max() - factor.min()) < 1e-4
            factors.append(float(factor.mean()))
        assert all(0.7 <= factor <= 1.3 for factor in factors)
        assert len({round(factor, 4) for factor in factors}) == 3  # each scene by its own factor


def test_zero_rotation_and_scale_change_nothing() -> None:
    coord, normal = scenes()
    for view in views(rotation_degrees=0.0, scale=0.0):
        assert torch.equal(view.coord, coord)
        assert view.normal is not None
        assert torch.equal(view.normal, normal)


def test_the_two_views_differ_in_angle_and_in_size() -> None:
    for changes in ({"scale": 0.0}, {"rotation_degrees": 0.0}):
        first, second = views(**changes)
        ends = np.cumsum([0, *NUM_POINTS])
        for start, end in itertools.pairwise(ends):
            assert (first.coord[start:end] - second.coord[start:end]).abs().max() > 1e-3


def test_the_views_of_a_scene_do_not_depend_on_its_batch() -> None:
    together = views(samples=[4, 8, 9])
    alone = views([17], samples=[8])
    reordered = views([30, 17], samples=[9, 8])
    for view in range(2):
        expected = together[view].coord[5:22]
        # Coordinates of size 1 in float32. A kernel may round differently at another alignment.
        assert torch.allclose(alone[view].coord, expected, atol=1e-6)
        assert torch.allclose(reordered[view].coord[30:], expected, atol=1e-6)
        assert torch.allclose(reordered[view].coord[:30], together[view].coord[22:], atol=1e-6)


def test_views_depend_on_seed_epoch_and_sample_alone() -> None:
    base = views()
    torch.manual_seed(123)
    np.random.seed(123)
    assert torch.equal(views()[0].coord, base[0].coord)
    for changes in ({"seed": 8}, {"epoch": 4}, {"samples": [5, 6, 7]}):
        other = views(**changes)  # type: ignore[arg-type]
        assert not torch.allclose(other[0].coord, base[0].coord, atol=1e-3)
        assert not torch.allclose(other[1].coord, base[1].coord, atol=1e-3)
    state = torch.get_rng_state()
    views(epoch=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_angles_and_factors_fill_their_range_evenly() -> None:
    count = 2000
    coord = torch.tensor([[1.0, 0.0, 1.0]]).repeat(count, 1)
    for view in make_views(
        coord,
        None,
        torch.ones(count, dtype=torch.long),
        samples=np.arange(count),
        **{**SETTINGS, "rotation_degrees": 90.0},
    ):
        factor = view.coord[:, 2].double().numpy()
        angle = np.degrees(np.arctan2(view.coord[:, 1].double().numpy(), view.coord[:, 0].double().numpy()))
        for values, low, high in ((factor, 0.9, 1.1), (angle, -90.0, 90.0)):
            assert low - 1e-4 <= values.min() < low + 0.02 * (high - low)
            assert high + 1e-4 >= values.max() > high - 0.02 * (high - low)
            share = np.histogram(values, bins=4, range=(low, high))[0] / count
            assert share == pytest.approx(np.full(4, 0.25), abs=0.05)
        assert abs(np.corrcoef(factor, angle)[0, 1]) < 0.1


def test_normals_are_optional() -> None:
    coord, _ = scenes()
    made = make_views(coord, None, torch.tensor(NUM_POINTS), samples=np.arange(3), **SETTINGS)
    assert [view.normal for view in made] == [None, None]
    assert torch.equal(made[1].coord, views()[1].coord)


def test_every_second_view_is_mirrored_and_otherwise_as_before() -> None:
    coord, normal = scenes()
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    signs = set()
    for epoch in range(8):
        found = views(scale=0.0, rotation_degrees=0.0, flip=True, epoch=epoch)
        for view in found:
            assert view.normal is not None
            is_mirrored = bool((view.coord[:5] != coord[:5]).any())
            expected = (coord * mirror, normal * mirror) if is_mirrored else (coord, normal)
            assert torch.equal(view.coord[:5], expected[0][:5])
            assert torch.equal(view.normal[:5], expected[1][:5])
        signs.add(tuple(bool((view.coord[:5] != coord[:5]).any()) for view in found))
    assert signs == {(False, False), (False, True), (True, False), (True, True)}
    # The angles and factors are those without mirroring.
    assert torch.equal(views(flip=True)[1].coord[:, 2], views()[1].coord[:, 2])


def test_jitter_is_independent_noise_of_the_given_size_in_each_view_and_leaves_normals_alone() -> None:
    counts = [3000, 2000]
    quiet, noisy = (views(counts, jitter=jitter) for jitter in (0.0, 0.05))
    noise = [(after.coord - before.coord).numpy() for before, after in zip(quiet, noisy, strict=True)]
    for one in noise:
        assert one.std(axis=0) == pytest.approx([0.05] * 3, rel=0.05)
        assert np.abs(one.mean(axis=0)).max() < 0.003
    together = np.concatenate([*noise], axis=1)
    assert np.abs(np.corrcoef(together.T) - np.eye(6)).max() < 0.06
    assert torch.equal(noisy[0].normal, quiet[0].normal)  # type: ignore[arg-type]
    alone = views([2000], samples=[1], jitter=0.05)
    assert torch.allclose(alone[1].coord, noisy[1].coord[3000:], atol=1e-6)
