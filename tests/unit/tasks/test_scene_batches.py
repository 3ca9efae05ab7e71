"""Batches hold their scenes exactly, and sample points by seed, epoch and scene alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.scenes.cache import Room, SceneRef, SceneSettings, prepared_scene
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.scene_batches import PointBatch, SceneDataset, SceneLoader, sample_points

Make = Callable[..., DbbdConfig]
SETTINGS = SceneSettings(normal_neighbors=8, max_depth=2, min_region_points=16)


def drawn(num_points: list[int], count: int, samples: list[int] | None = None, **changes: int) -> np.ndarray | None:
    index = np.arange(len(num_points)) if samples is None else np.array(samples)
    return sample_points(num_points, count, samples=index, **{"seed": 5, "epoch": 2, **changes})


def per_scene(found: np.ndarray, num_points: list[int]) -> list[np.ndarray]:
    """The points sampled from each scene, as indices into the scene."""
    ends = np.cumsum(num_points)
    return [
        found[(found >= end - size) & (found < end)] - (end - size) for size, end in zip(num_points, ends, strict=True)
    ]


def test_points_of_each_scene_are_sampled_without_replacement() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 400, rng.integers(1, 6)).tolist()
        count = int(rng.integers(2, 300))
        found = drawn(sizes, count)
        if max(sizes) <= count:
            assert found is None
            continue
        assert found is not None
        assert found.dtype == np.int64
        assert (np.diff(found) > 0).all()  # ascending, hence unique
        assert found.min() >= 0
        assert found.max() < sum(sizes)
        for size, part in zip(sizes, per_scene(found, sizes), strict=True):
            assert len(part) == min(size, count)


@pytest.mark.parametrize(("sizes", "count"), [([10], 10), ([10], 11), ([3, 4], 4)])
def test_small_scenes_are_not_sampled(sizes: list[int], count: int) -> None:
    assert drawn(sizes, count) is None
    assert drawn(sizes, max(sizes) - 1) is not None


def test_sampling_depends_on_seed_epoch_and_scene_alone() -> None:
    together = drawn([300, 200], 20, [7, 4])
    alone = drawn([200], 20, [4])
    assert together is not None
    assert alone is not None
    assert per_scene(together, [300, 200])[1].tolist() == alone.tolist()
    # A larger sample contains the smaller one: the order of the points of a scene is fixed.
    more = drawn([200], 60, [4])
    assert more is not None
    assert set(alone) < set(more)
    np.random.seed(1)
    torch.manual_seed(1)
    again = drawn([200], 20, [4])
    assert again is not None
    assert again.tolist() == alone.tolist()
    for changes in ({"seed": 6}, {"epoch": 3}, {"samples": [5]}):
        other = drawn([200], 20, **{"samples": [4], **changes})  # type: ignore[arg-type]
        assert other is not None
        assert other.tolist() != alone.tolist()


def test_every_point_is_equally_likely() -> None:
    counts = np.zeros(40)
    for epoch in range(1, 1001):
        found = drawn([40], 10, [0], epoch=epoch)
        assert found is not None
        counts[found] += 1
    assert counts == pytest.approx(np.full(40, 250), abs=70)  # five standard deviations


# Batches


@pytest.fixture
def refs() -> list[SceneRef]:
    rooms = [Room(5, index, 1000 + 100 * index) for index in range(5)]
    return [SceneRef(room, room.sha256) for room in rooms]


def dataset(refs: list[SceneRef], cache: Path, **changes: Any) -> SceneDataset:
    settings: dict[str, Any] = {"point_samples": 50, "with_color": True, "with_segment": True, "seed": 5, **changes}
    return SceneDataset(refs, SETTINGS, cache, **settings)


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors(item)


def assert_equal(one: PointBatch, two: PointBatch) -> None:
    pairs = list(zip(tensors(one), tensors(two), strict=True))
    assert len(pairs) > 20
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_a_batch_concatenates_its_scenes(refs: list[SceneRef], tmp_path: Path) -> None:
    batch = dataset(refs, tmp_path).__getitems__([(4, 3), (4, 1)])
    scenes = [prepared_scene(refs[index], SETTINGS, tmp_path) for index in (3, 1)]
    assert batch.num_points.tolist() == [1300, 1100]
    assert batch.samples.tolist() == [3, 1]
    assert int(batch.epoch) == 4
    for name in ("coord", "normal", "color", "segment"):
        assert np.array_equal(getattr(batch, name).numpy(), np.concatenate([getattr(scene, name) for scene in scenes]))
    expected = sample_points([1300, 1100], 50, seed=5, epoch=4, samples=np.array([3, 1]))
    assert expected is not None
    assert batch.regions.point.tolist() == expected.tolist()
    assert (
        batch.regions.levels[1].offset.tolist()
        == np.cumsum([0, *(int((s.tree.level == 1).sum()) for s in scenes)]).tolist()
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_the_points_of_a_batch_are_divided_equally(refs: list[SceneRef], tmp_path: Path, processes: int) -> None:
    loader = SceneLoader(dataset(refs, tmp_path), batch_size=2, shuffle=False, seed=5)
    loader.divide(0, processes, 2 * processes)
    batch = next(loader.batches(1))
    assert [len(part) for part in per_scene(batch.regions.point.numpy(), batch.num_points.tolist())] == [
        50 // (2 * processes)
    ] * 2


def test_without_sampling_all_points_are_compared_in_order(refs: list[SceneRef], tmp_path: Path) -> None:
    for point_samples in (None, 5000):
        batch = dataset(refs, tmp_path, point_samples=point_samples).__getitems__([(0, 0), (0, 1)])
        assert batch.regions.point.tolist() == list(range(2100))


def test_colors_and_labels_are_optional(refs: list[SceneRef], tmp_path: Path) -> None:
    batch = dataset(refs, tmp_path, with_color=False, with_segment=False).__getitems__([(0, 0)])
    assert batch.color is None
    assert batch.segment is None


def test_scenes_without_labels_have_unknown_ones(scene_folder: Callable[..., Path], tmp_path: Path) -> None:
    from dbbd_cli.data.scenes.reader import scene_digest

    path = scene_folder({"train": 1, "val": 1}, labels=False) / "train" / "scene0000_00.pkl"
    batch = dataset([SceneRef(path, scene_digest(path))], tmp_path / "cache", with_color=False).__getitems__([(0, 0)])
    assert batch.segment is not None
    assert batch.segment.tolist() == [-1] * 1000


def test_batches_do_not_depend_on_workers_or_start(refs: list[SceneRef], tmp_path: Path) -> None:
    def batches(workers: int, start: int = 0) -> list[PointBatch]:
        loader = BatchLoader(dataset(refs, tmp_path), batch_size=2, shuffle=True, seed=5, num_workers=workers)
        return list(loader.batches(3, start))

    alone, helped, later = batches(0), batches(2), batches(0, start=1)
    assert [len(batch.samples) for batch in alone] == [2, 2, 1]
    for one, two in zip(alone, helped, strict=True):
        assert_equal(one, two)
    for one, two in zip(alone[1:], later, strict=True):
        assert_equal(one, two)
