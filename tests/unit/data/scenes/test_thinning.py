"""Thinning to a grid."""

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.scenes import thinning
from dbbd_cli.data.scenes.formats.blocks import slices
from dbbd_cli.data.scenes.reader import Sampling, read_scene
from dbbd_cli.data.scenes.scene import SceneArrays
from dbbd_cli.data.scenes.thinning import thinned
from dbbd_cli.data.scenes.writing import write_ply
from unit.data.scenes.formats import written

RNG = np.random.default_rng(0)
N = 3000
COORD = RNG.random((N, 3)) * [6, 5, 2] + [1000, -2000, 3]
SCENE = SceneArrays(
    COORD,
    RNG.normal(size=(N, 3)),
    RNG.integers(0, 256, (N, 3)).astype(np.uint8),
    RNG.integers(0, 9, N),
    properties={"intensity": RNG.integers(0, 1000, N).astype(np.uint16)},
)


def expected_rows(coord, size):
    """The first of the nearest points to the center of each cell, one point after the other."""
    best = {}
    for row, point in enumerate(coord):
        cell = tuple(np.floor(point / size))
        distance = ((point / size - np.array(cell) - 0.5) ** 2).sum()
        if cell not in best or distance < best[cell][0]:
            best[cell] = (distance, row)
    return sorted(row for _, row in best.values())


@pytest.mark.parametrize("block", [N, 700, 64])
def test_the_point_nearest_to_the_center_of_each_cell_stays(block):
    found = thinned(slices(SCENE, block), 0.5)
    rows = expected_rows(COORD, 0.5)
    assert 100 < len(rows) < N / 2
    np.testing.assert_array_equal(found.coord, COORD[rows])
    for part in ("normal", "color", "segment"):
        np.testing.assert_array_equal(getattr(found, part), getattr(SCENE, part)[rows])
    np.testing.assert_array_equal(found.properties["intensity"], SCENE.properties["intensity"][rows])


def test_the_first_of_equal_points_stays():
    twice = SceneArrays(np.concatenate([COORD[:50], COORD[:50]]), segment=np.arange(100))
    found = thinned(slices(twice, 30), 0.01)
    np.testing.assert_array_equal(found.segment, np.arange(50))


def ply_files(folder, arrays):
    """The same points as binary and as text."""
    columns = dict(zip("xyz", arrays.coord.T, strict=True)) | {"label": arrays.segment.astype(np.int32)}
    columns |= zip(("red", "green", "blue"), arrays.color.T, strict=True)
    write_ply(folder / "binary.ply", columns)
    header, _, _ = (folder / "binary.ply").read_bytes().partition(b"end_header")
    rows = "".join(" ".join(map(str, row)) + "\n" for row in zip(*(v.tolist() for v in columns.values()), strict=True))
    text = header.decode().replace("binary_little_endian", "ascii") + "end_header\n" + rows
    (folder / "text.ply").write_text(text)
    return folder / "binary.ply", folder / "text.ply"


def test_every_format_gives_the_same_points(tmp_path, monkeypatch):
    coord = np.round(COORD - [1000, -2000, 0], 3).astype(np.float32)
    scene = SceneArrays(coord.astype(np.float64), color=SCENE.color, segment=SCENE.segment)
    np.savez(tmp_path / "a.npz", coord=coord, color=scene.color, segment=scene.segment)
    for name, values in {"coord": coord, "color": scene.color, "segment": scene.segment}.items():
        (tmp_path / "folder").mkdir(exist_ok=True)
        np.save(tmp_path / "folder" / f"{name}.npy", values)
    paths = [
        *(tmp_path / "a.npz", tmp_path / "folder", written.text(tmp_path / "a.csv", scene)),
        *(written.pcd(tmp_path / f"{data}.pcd", scene, data) for data in ("ascii", "binary", "binary_compressed")),
        *ply_files(tmp_path, scene),
    ]
    for module in ("ply", "pcd"):
        monkeypatch.setattr(f"dbbd_cli.data.scenes.formats.{module}.BLOCK_POINTS", 700)
    first, *others = [read_scene(path, sampling=Sampling(grid_size=0.5)) for path in paths]
    assert first.num_points < N / 2
    for other in others:
        np.testing.assert_allclose(other.coord, first.coord, atol=1e-5)
        np.testing.assert_array_equal(other.segment, first.segment)
        np.testing.assert_array_equal(other.color, first.color)


def test_las_is_thinned_like_others(tmp_path):
    pytest.importorskip("lazrs")
    path = written.las(tmp_path / "a.laz", SCENE)
    all_points = read_scene(path)
    found = read_scene(path, sampling=Sampling(grid_size=0.3))
    rows = expected_rows(all_points.coord.astype(np.float64) + all_points.shift, 0.3)
    assert abs(found.num_points - len(rows)) <= 2  # points on the border of a cell
    assert found.properties["intensity"].dtype == np.uint16


def test_a_stored_tree_and_parts_of_another_length_are_left_out():
    odd = SceneArrays(COORD, color=SCENE.color[:7], segment=SCENE.segment, hierarchy={"indices": []})
    found = thinned(slices(odd, N), 0.5)
    assert found.hierarchy is found.color is None
    assert "7 rows of color" in found.unusable["color"]
    assert found.segment is not None


def test_what_cannot_be_thinned_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"only 1 point on a grid of data.grid_size=1e\+06: lower it"):
        thinned(slices(SceneArrays(COORD + 5000)), 1e6)
    with pytest.raises(ValueError, match=r"1,048,576 cells of data\.grid_size=1e-06: raise it"):
        thinned(slices(SCENE), 1e-6)
    bad = COORD.copy()
    bad[2500] = np.nan
    with pytest.raises(ValueError, match="not finite at point 2,500"):
        thinned(slices(SceneArrays(bad), 700), 0.5)
    monkeypatch.setattr(thinning, "MAX_POINTS_READ", 2000)
    with pytest.raises(ValueError, match="more than 2,000 points"):
        thinned(slices(SCENE, 700), 0.5)


def test_the_limit_of_points_holds_after_thinning(tmp_path, monkeypatch):
    path = written.text(tmp_path / "a.xyz", SceneArrays(COORD))
    monkeypatch.setattr("dbbd_cli.data.scenes.formats.blocks.MAX_POINTS", 1000)
    monkeypatch.setattr("dbbd_cli.data.scenes.formats.blocks.joined.__defaults__", (1000,))
    with pytest.raises(
        DataError, match=r"more than 1,000 points; the limit is 1,000: divide or downsample it; .* data\.grid_size"
    ):
        read_scene(path)
    assert read_scene(path, sampling=Sampling(grid_size=0.5)).num_points < 1000


@pytest.mark.parametrize("name", ["a.ply", "a.pcd"])
def test_a_truncated_file_is_refused_before_it_is_read(tmp_path, name):
    path = (
        ply_files(tmp_path, SCENE)[0].rename(tmp_path / name)
        if name == "a.ply"
        else written.pcd(tmp_path / name, SCENE)
    )
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is truncated: 3,000 points need"):
        read_scene(path, sampling=Sampling(grid_size=0.5))


def test_files_that_are_read_whole_keep_their_limit_of_size(tmp_path, monkeypatch):
    monkeypatch.setattr("dbbd_cli.data.scenes.formats.blocks.MAX_BYTES", 1000)
    binary, text = ply_files(tmp_path, SCENE)
    assert read_scene(binary, sampling=Sampling(grid_size=0.5)).num_points < N
    for path, sampling in ((binary, Sampling()), (text, Sampling(grid_size=0.5))):
        with pytest.raises(DataError, match=r"the limit is 1,000: divide or downsample it; .* data\.grid_size"):
            read_scene(path, sampling=sampling)
