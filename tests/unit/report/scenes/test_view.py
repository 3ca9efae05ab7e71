"""A point cloud is rendered from above with correct occlusion, without its ceiling, at a bounded size."""

from __future__ import annotations

import numpy as np
import pytest

from dbbd_cli.report.scenes.view import view_scene


def plane(height: float, points: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(int(10 * height))
    return np.column_stack([rng.random((points, 2)) * [4, 3], np.full(points, height)]).astype(np.float32)


def test_near_points_hide_far_ones() -> None:
    view = view_scene(np.concatenate([plane(0.0), plane(1.0, 10_000)]), 200, 200)
    assert view.cut is None
    middle = view.owner[70:100, 80:120]
    assert (middle >= 2000).mean() > 0.95


def test_the_ceiling_is_cut_and_the_floor_is_visible() -> None:
    room = np.concatenate([plane(0.0), plane(2.5)])
    view = view_scene(room, 200, 200)
    assert view.cut == pytest.approx(0.75 * 2.5)
    assert view.seen.max() < 2000
    assert len(view.seen) > 1500


def test_all_four_walls_are_visible() -> None:
    rng = np.random.default_rng(0)
    walls = []
    for axis, place in ((0, 0.0), (0, 4.0), (1, 0.0), (1, 3.0)):
        wall = rng.random((1000, 3)) * [4, 3, 2.5]
        wall[:, axis] = place
        walls.append(wall)
    seen = view_scene(np.concatenate([*walls, plane(0.0)]), 400, 400).seen
    assert all(((seen >= 1000 * wall) & (seen < 1000 * (wall + 1))).any() for wall in range(4))
    assert (seen >= 4000).sum() > 1500  # and none of them hides the floor


def test_the_longer_side_is_horizontal() -> None:
    for turned in (False, True):
        coord = plane(0.0) * [1.0, 0.5, 1.0]
        height, width = view_scene(coord[:, [1, 0, 2]] if turned else coord, 300, 300).owner.shape
        assert width == 300
        assert height < 180


def test_an_image_keeps_within_its_size() -> None:
    height, width = view_scene(plane(0.0), 300, 50).owner.shape
    assert (height, width <= 300) == (50, True)


def test_outliers_do_not_set_the_scale() -> None:
    coord = np.concatenate([plane(0.0), [[500.0, 500.0, 0.0]]])
    assert len(view_scene(coord, 200, 200).seen) > 1000


def test_colors_are_those_of_the_points() -> None:
    coord = plane(0.0, 500)
    view = view_scene(coord, 100, 100)
    picture = view.paint(np.tile([1.0, 0.0, 0.5], (500, 1)))
    assert picture.shape == (*view.owner.shape, 4)
    there = view.owner >= 0
    assert ((picture[..., 3] == 255) == there).all()
    assert (picture[~there] == 0).all()
    assert picture[there][:, :3].max(axis=0).tolist() == [255, 0, 128]
    assert 0 <= view.shade.min() <= view.shade.max() <= 1


def test_edges_are_darker_than_surfaces() -> None:
    box = plane(0.6, 500) * [0.25, 0.25, 1] + [1.5, 1.2, 0]
    view = view_scene(np.concatenate([plane(0.0, 20_000), box]), 300, 300)
    floor = (view.owner >= 0) & (view.owner < 20_000)
    assert view.shade[floor].min() < 0.7
    assert np.median(view.shade[floor]) > 0.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "coord",
    [
        np.zeros((1, 3)),
        np.zeros((1000, 3)),
        np.outer(np.arange(100), [1, 0, 0]),
        np.outer(np.arange(100), [0, 0, 1]),
        np.sign(np.random.default_rng(0).normal(size=(500, 3))) * 1e6,
        np.random.default_rng(0).random((500, 3)) * 1e-30,
        np.concatenate([np.zeros((999, 3)), [[1e6, 1e6, 1e6]]]),
    ],
    ids=["one point", "one place", "a line", "a pole", "far away", "tiny", "astray"],
)
def test_any_points_make_an_image(coord: np.ndarray) -> None:
    view = view_scene(coord.astype(np.float32), 120, 90)
    height, width = view.owner.shape
    assert 8 <= height <= 90
    assert 8 <= width <= 120
    assert len(view.seen) > 0
    assert np.isfinite(view.shade).all()
    again = view_scene(coord.astype(np.float32), 120, 90)
    assert (again.owner == view.owner).all()
