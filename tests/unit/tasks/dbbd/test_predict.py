"""`predict` of a DBBD run writes the features that its network computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.data.scenes.reader import read_scene
from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
from dbbd_cli.engine.runtime import choose_runtime
from dbbd_cli.services.predict import open_predictor, predict
from dbbd_cli.services.train import train
from dbbd_cli.tasks.dbbd.probe_features import point_features

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = generate_room(42, 0, 1500)
    path = tmp_path_factory.mktemp("scans") / "room.npz"
    assert room.segment is not None
    np.savez(path, coord=room.coord + np.array([5e5, 5e6, 100]), segment=room.segment, intensity=room.coord[:, 0])
    return path


def features(run: Path, scan: Path, out: Path, *settings: str) -> np.ndarray:
    overrides = [parse_override(text) for text in ("predict.formats=[npz]", *settings)]
    [result] = predict(run, [str(scan)], out=out, overrides=overrides)
    assert result.status == "written", result.note
    found: np.ndarray = np.load(result.files[0])["feature"]  # type: ignore[union-attr]
    return found


def test_features_of_both_branches(tiny_point_config: Make, scan: Path, tmp_path: Path) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    down, up, both = (features(run, scan, tmp_path, f"predict.branch={name}") for name in ("g2l", "l2g", "both"))
    assert down.shape == up.shape == (1500, 16)
    assert down.dtype == np.float32
    assert np.abs(down - up).max() > 0.01
    np.testing.assert_allclose(both, np.concatenate([down, up], axis=1), rtol=0, atol=1e-5)

    # The same as those of the linear probe.
    workload = open_predictor(run).workload
    dataset = workload.dataset([], point_samples=None)  # type: ignore[attr-defined]
    from dbbd_cli.data.scenes.cache import SceneRef, prepare

    batch = dataset.batch([prepare(read_scene(scan), SceneRef(scan, ""), dataset.settings)])
    expected = point_features(workload, workload.module.encoder, batch, choose_runtime("cpu", "fp32"))  # type: ignore[arg-type]
    np.testing.assert_allclose(down, expected.numpy(), rtol=0, atol=1e-5)

    unit = features(run, scan, tmp_path, "predict.normalization=l2")
    np.testing.assert_allclose(unit, down / np.linalg.norm(down, axis=1, keepdims=True), rtol=0, atol=1e-5)


def test_smaller_features_mean_the_same_in_every_scene(tiny_point_config: Make, scan: Path, tmp_path: Path) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    full = features(run, scan, tmp_path)
    small = features(run, scan, tmp_path, "predict.dim=4")
    assert small.shape == (1500, 4)
    again = features(run, scan, tmp_path, "predict.dim=3")
    np.testing.assert_allclose(again, small[:, :3], rtol=0, atol=1e-5)
    # A linear map: differences of points are explained by those of all channels.
    solution = np.linalg.lstsq(full - full.mean(axis=0), small - small.mean(axis=0), rcond=None)[0]
    np.testing.assert_allclose((full - full.mean(axis=0)) @ solution, small - small.mean(axis=0), rtol=0, atol=1e-3)
    with pytest.raises(ConfigError) as error:
        features(run, scan, tmp_path, "predict.dim=17")
    assert "at most 16" in str([error.value.message, error.value.details])


def test_tiles_change_features_little_and_files_hold_all_points(
    tiny_point_config: Make, scan: Path, tmp_path: Path
) -> None:
    run = train(tiny_point_config(training__epochs=1)).run
    [result] = predict(run, [str(scan)], overrides=[parse_override("predict.max_points=1000")])
    assert [Path(file) for file in result.files] == [  # type: ignore[union-attr]
        run / "predictions" / name for name in ("room-features.ply", "room-features.npz")
    ]
    source, painted = read_scene(scan), read_scene(run / "predictions" / "room-features.ply")
    np.testing.assert_array_equal(painted.coord, source.coord)
    np.testing.assert_array_equal(painted.shift, source.shift)
    np.testing.assert_array_equal(painted.segment, source.segment)
    np.testing.assert_array_equal(painted.properties["intensity"], source.properties["intensity"])
    assert painted.color is not None
    assert painted.color.std(axis=0).min() > 0.1
    tiled = np.load(run / "predictions" / "room-features.npz")["feature"]
    whole = features(run, scan, tmp_path)
    assert np.abs(tiled - whole).max() > 0
    similarity = (tiled * whole).sum(axis=1) / np.linalg.norm(tiled, axis=1) / np.linalg.norm(whole, axis=1)
    assert np.median(similarity) > 0.9


def test_what_the_network_needs_must_be_there(scene_folder: Make, tiny_point_config: Make, scan: Path) -> None:
    root = scene_folder(colors=True)
    config = tiny_point_config(data__path=str(root), data__features=["color", "normals"], training__epochs=1)
    run = train(config).run
    test = next((root / "test").iterdir())
    bad, good = predict(run, [str(scan), str(test)])
    assert (bad.status, bad.note) == ("skipped", "has no colors, which data.features requires")
    assert good.status == "written"
    assert not list((run / "predictions").glob("room*"))
    with pytest.raises(ConfigError, match="--explain"):
        open_predictor(run, explain=True)
    assert json.loads(json.dumps(good.to_plain()))["points"] == 1000
