"""Synthetic rooms are complete, plausible scans that depend on seed and index alone."""

import numpy as np
import pytest

from dbbd_cli.data.scenes.synthetic_rooms.generator import ROOM_CLASSES, _draw, _Piece, generate_room
from dbbd_cli.data.scenes.synthetic_rooms.solids import Box


@pytest.fixture(scope="module")
def rooms():
    return [generate_room(0, index) for index in range(8)]


def test_rooms_are_scenes_of_the_documented_size(rooms):
    for room in rooms:
        assert 20_000 <= room.num_points <= 50_000
        assert room.coord.shape == room.normal.shape == room.color.shape == (room.num_points, 3)
        assert np.isfinite(room.coord).all()
        np.testing.assert_allclose(np.linalg.norm(room.normal, axis=1), 1, atol=1e-5)
        assert room.color.min() >= 0
        assert room.color.max() <= 1
        assert (np.ptp(room.coord, axis=0) < [6.1, 5.1, 3.1]).all()
    assert len({room.num_points for room in rooms}) > 5


def test_all_classes_occur_and_furniture_has_many_points(rooms):
    counts = np.array([np.bincount(room.segment + 1, minlength=10)[1:] for room in rooms])
    assert counts.shape[1] == len(ROOM_CLASSES)
    assert (counts[:, :8] > 0).mean() > 0.97
    assert (counts > 50).any(axis=0).all()
    furniture = counts[:, 3:].sum(axis=1) / counts.sum(axis=1)
    assert (furniture > 0.05).all()
    assert furniture.mean() > 0.15
    unknown = np.mean([np.mean(room.segment == -1) for room in rooms])
    assert 0.001 < unknown < 0.01


def test_a_room_depends_on_seed_and_index_alone(rooms):
    again = generate_room(0, 5)
    for name in ("coord", "normal", "color", "segment", "shift"):
        np.testing.assert_array_equal(getattr(again, name), getattr(rooms[5], name))
    assert not np.array_equal(generate_room(1, 5, num_points=500).coord, generate_room(0, 5, num_points=500).coord)


def test_the_number_of_points_can_be_chosen(rooms):
    few = generate_room(0, 2, num_points=1000)
    assert few.num_points == 1000
    np.testing.assert_allclose(np.ptp(few.coord, axis=0), np.ptp(rooms[2].coord, axis=0), atol=0.1)


def test_floor_walls_and_ceiling_are_in_place(rooms):
    for room in rooms:
        z, known = room.coord[:, 2], room.segment
        height = np.ptp(z)
        assert np.abs(z[known == 0]).max() < 0.06
        assert z[known == 2].min() > height - 0.06
        assert (room.normal[known == 0] == [0, 0, 1]).all()
        assert (room.normal[known == 2] == [0, 0, -1]).all()
        assert (room.normal[known == 1][:, 2] == 0).all()


def test_density_is_uneven_and_furniture_casts_shadows(rooms):
    for room in rooms[:4]:
        floor = room.coord[room.segment == 0][:, :2]
        cells = np.histogram2d(*floor.T, bins=12)[0].ravel()
        few, many = np.quantile(cells[cells > 0], [0.1, 0.9])
        assert many > 3 * few
    empty = [(np.histogram2d(*room.coord[room.segment == 0][:, :2].T, bins=15)[0] == 0).mean() for room in rooms]
    assert np.mean(empty) > 0.02


def test_the_nearest_piece_is_seen_with_the_normals_of_its_rotated_sides():
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(2000, 3)) * [0.3, 0.3, 0.1] + [1, 0, 0]
    direction = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    origin = np.array([0, 0, 0.5], np.float32)
    small = _Piece("box", [Box((0, 0, 0.5), (0.2, 0.2, 0.5))], 2, 0, 0.3, 0.3, np.array([1, 0, 0]))
    large = _Piece("shelf", [Box((0, 0, 1), (1, 1, 2))], 5, 0, 0.5, 1.5, np.array([0, 1, 0]))
    seen = []
    for order in ((small, large), (large, small)):
        distance, normal = np.full(2000, 100, np.float32), np.zeros((2000, 3), np.float32)
        segment, color = np.zeros(2000, int), np.zeros((2000, 3), np.float32)
        for piece in order:
            _draw(piece, origin, direction, distance, normal, segment, color)
        seen.append((distance, normal, segment, color))
    for first, second in zip(*seen, strict=True):
        np.testing.assert_array_equal(first, second)
    distance, normal, segment, color = seen[0]
    for piece, half in ((small, 0.2), (large, 1.0)):
        own = segment == ROOM_CLASSES.index(piece.kind)
        assert own.sum() > 100
        assert (color[own] == piece.color).all()
        cos, sin = np.cos(piece.angle), np.sin(piece.angle)
        offset = (origin + distance[own, None] * direction[own])[:, :2] - [piece.x, piece.y]
        local = offset @ np.array([[cos, -sin], [sin, cos]])
        upright = np.abs(normal[own][:, 2]) < 0.5
        sides = np.array([[cos, sin], [-sin, cos]])  # directions of the sides of the piece
        along = normal[own][:, :2] @ sides.T
        np.testing.assert_allclose(np.abs(along[upright]).max(axis=1), 1, atol=1e-5)
        # The side that is hit is the one that its normal belongs to.
        np.testing.assert_allclose((local * along).sum(axis=1)[upright], half, atol=1e-4)
        assert ((normal[own] * direction[own]).sum(axis=1) < 0).all()
    towards = np.abs(direction[:, 1] / direction[:, 0]) < 0.05
    towards &= np.abs(direction[:, 2]) < 0.1
    assert (segment[towards] == ROOM_CLASSES.index("box")).all()
