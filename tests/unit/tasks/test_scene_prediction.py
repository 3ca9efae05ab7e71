"""Scenes are cut into tiles and joined without a trace, and results are written without touching an input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.inputs import Input, input_of
from dbbd_cli.data.scenes.cache import SceneRef
from dbbd_cli.data.scenes.reader import read_scene
from dbbd_cli.data.scenes.scene import Scene, SceneArrays, make_scene
from dbbd_cli.report.prediction import FilePrediction
from dbbd_cli.runs.output_folder import OutputFolder
from dbbd_cli.tasks import scene_prediction
from dbbd_cli.tasks.scene_prediction import ScenePredictionResult, infer_in_tiles, make_tiles, predict_scenes
from dbbd_cli.tasks.scene_prediction_config import Format, ScenePredictionConfig


def cloud(count: int = 20_000) -> np.ndarray:
    """Points of uneven density in a room of 8 by 4 by 2 m."""
    rng = np.random.default_rng(0)
    return (rng.beta(0.5, 2.0, (count, 3)) * [8, 4, 2]).astype(np.float32)


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_each_point_is_decided_in_the_tile_where_it_lies_farthest_from_the_edge(margin: float) -> None:
    coord = cloud()
    tiles = make_tiles(coord, 2000, margin)
    assert len(tiles) > 8
    assert max(len(tile.points) for tile in tiles) <= 2000
    decided = np.concatenate([tile.points[tile.decides] for tile in tiles])
    assert np.array_equal(np.sort(decided), np.arange(len(coord)))
    if margin == 0.0:
        assert sum(len(tile.points) for tile in tiles) == len(coord)
        return
    # The distance of a point from the edge of a tile is that to the nearest point outside of it; only for points
    # near the edge between tiles that reach equally far is it the larger one in the tile that decides.
    for tile in tiles:
        own = coord[tile.points[tile.decides], :2]
        reach = margin * np.ptp(own, axis=0)
        inside = (coord[:, :2] >= own.min(axis=0) - reach) & (coord[:, :2] <= own.max(axis=0) + reach)
        assert np.array_equal(np.flatnonzero(inside.all(axis=1)), np.sort(tile.points))


def test_values_of_neighborhoods_are_those_of_the_whole_scene() -> None:
    """The number of points within a radius smaller than the margin does not depend on the tile."""
    from scipy.spatial import cKDTree

    scene = make_scene(SceneArrays(cloud(4000) + np.array([400_000.0, 0, 7])))
    sizes = []

    def infer(part: Scene) -> dict[str, np.ndarray]:
        sizes.append(part.num_points)
        assert np.abs(part.coord[:, :2].min(axis=0) + part.coord[:, :2].max(axis=0)).max() < 1e-4
        tree = cKDTree(part.coord[:, :2])
        near = tree.query_ball_point(part.coord[:, :2], 0.02, return_length=True)
        return {"near": near, "place": part.coord + part.shift, "height": part.coord[:, 2]}

    whole = infer(scene)
    sizes.clear()
    joined = infer_in_tiles(scene, lambda part: part, infer, max_points=1000, margin=0.3)
    assert len(sizes) > 4
    assert max(sizes) <= 1000
    assert np.array_equal(joined["height"], whole["height"])
    np.testing.assert_allclose(joined["place"], whole["place"], rtol=0, atol=1e-5)
    assert (joined["near"] == whole["near"]).mean() > 0.999  # float32 coordinates of tiles differ in the last digit


@pytest.mark.parametrize("axis", [0, 1, None])
def test_points_that_cannot_be_told_apart_stay_together(axis: int | None) -> None:
    coord = np.zeros((3000, 3), np.float32)
    coord[:, 2] = np.arange(3000)
    if axis is not None:
        coord[2999, axis] = 5.0
    tiles = make_tiles(coord, 1000, 0.1)
    assert sorted(int(tile.decides.sum()) for tile in tiles) == ([3000] if axis is None else [1, 2999])


def fake(scene: Scene, ref: SceneRef) -> ScenePredictionResult:
    """The height of each point, and a refusal of scenes named so."""
    if "bad" in ref.name:
        raise DataError(f"{ref.name}: has no colors")
    height = scene.coord[:, 2]
    return ScenePredictionResult({"height": height}, {"height": height}, np.zeros((scene.num_points, 3), np.uint8))


def run(out: Path, *inputs: str | Input, formats: list[Format] | None = None) -> list[FilePrediction]:
    given = [input_of(one) if isinstance(one, str) else one for one in inputs]
    settings = ScenePredictionConfig(formats=formats or ["ply"])
    return list(
        predict_scenes(given, fake, settings=settings, out=OutputFolder(out), suffix="-height", progress=Silent())
    )


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with scenes on two levels, and other things."""
    root = tmp_path / "scans"
    for name in ("b.npz", "sub/b.npz", "sub/bad.npz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(root / name, coord=cloud(50) + 100)
    (root / "room" / "deep").mkdir(parents=True)
    np.save(root / "room" / "coord.npy", cloud(60))
    (root / "broken.ply").write_text("ply\n")
    (root / "scan.rcp").write_text("?")
    (root / "notes.md").write_text("nothing")
    return root


def test_folders_files_and_everything_that_is_none(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = run(out, str(scans), str(scans / "b.npz"), str(scans / "room"), "nowhere", str(scans / "notes.md"))
    assert [(Path(one.input).name, [Path(file).relative_to(out).as_posix() for file in one.files]) for one in results
            if one.status == "written"] == [
        ("b.npz", ["b-height.ply"]), ("room", ["room-height.ply"]), ("b.npz", ["sub/b-height.ply"]),
        ("b.npz", ["b-height-2.ply"]), ("room", ["room-height-2.ply"]),
    ]  # fmt: skip
    skipped = {Path(one.input).name: one.note for one in results if one.status == "skipped"}
    assert skipped["bad.npz"] == "has no colors"
    assert "header" in skipped["broken.ply"]
    assert skipped["scans"] == "1 scan in unsupported formats: 1 .rcp"
    assert "no such file" in skipped["nowhere"]
    assert "is not a scene" in skipped["notes.md"]
    assert results[0].num_points == 50
    assert read_scene(out / "b-height.ply").properties["scalar_height"].max() > 0


def test_no_result_replaces_an_input_or_becomes_one(scans: Path, tmp_path: Path) -> None:
    np.savez(scans / "b-height.npz", coord=cloud(70))
    before = (scans / "b-height.npz").read_bytes()
    results = run(scans, str(scans / "b.npz"), str(scans / "b-height.npz"), str(scans), formats=["npz"])
    notes = [one.note for one in results]
    assert "would replace" in notes[0]
    assert "which is an input" in notes[0]
    assert results[1].status == "written"
    assert "is also the folder for the results" in notes[2]
    assert (scans / "b-height.npz").read_bytes() == before
    first, second = (run(scans / "results", str(scans)) for _ in range(2))
    assert [one.input for one in first] == [one.input for one in second]


def test_scenes_in_the_folder_for_the_results_are_named_as_the_reason(scans: Path) -> None:
    (scans / "empty").mkdir()
    notes = [one.note for one in run(scans, str(scans / "sub"), str(scans / "empty"))]
    assert "has no scenes but those in the folder for the results" in notes[0]
    assert notes[1] == "contains no scenes"


def test_every_format(scans: Path, tmp_path: Path) -> None:
    [result] = run(tmp_path / "out", str(scans / "b.npz"), formats=["npz", "npy", "ply"])
    assert [Path(file).name for file in result.files] == ["b-height.npz", "b-height", "b-height.ply"]
    source = np.load(scans / "b.npz")["coord"]
    archive = np.load(result.files[0])
    np.testing.assert_array_equal(archive["coord"], source)
    np.testing.assert_array_equal(np.load(Path(result.files[1]) / "height.npy"), archive["height"])
    for file in result.files:
        scene = read_scene(Path(file))
        np.testing.assert_allclose(scene.coord + scene.shift, source, rtol=0, atol=1e-5)


def test_a_full_disk_ends_the_call(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, columns: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scene_prediction, "write_ply", full)
    with pytest.raises(DiskError, match="No space left"):
        run(tmp_path / "out", str(scans / "b.npz"))
