"""Each point of a scene gets a label and a confidence, whole or in tiles, thinned or not; the source stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.scenes.cache import SceneRef
from dbbd_cli.data.scenes.formats.ply import read_vertices
from dbbd_cli.data.scenes.geometry import geometry_features
from dbbd_cli.data.scenes.reader import read_scene
from dbbd_cli.report.prediction import FilePrediction
from dbbd_cli.services.predict import predict
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.session import build_workload
from dbbd_cli.services.train import train
from dbbd_cli.tasks.scene_batches import PointBatch
from dbbd_cli.tasks.scene_prediction import infer_scene
from dbbd_cli.tasks.segmentation.config import SegmentationConfig
from dbbd_cli.tasks.segmentation.workload import SegmentationWorkload

Make = Callable[..., SegmentationConfig]


@pytest.fixture
def run(tiny_segmentation: Make) -> Path:
    return train(tiny_segmentation(training__epochs=2)).run


def save(path: Path, count: int = 900, labels: int = 1) -> np.ndarray:
    """A scene far from the origin, with labels from 7 on; returns its coordinates."""
    random = np.random.default_rng(0)
    coord = random.uniform(0, [6, 4, 2], (count, 3)) + np.array([500_000.25, 4_000_000.5, 100])
    np.savez(path, coord=coord, intensity=random.random(count).astype(np.float32), label=7 + np.arange(count) % labels)
    return coord


def predicted(run: Path, scene: Path, out: Path, **settings: object) -> FilePrediction:
    overrides = [Override(key.replace("__", "."), value, "test") for key, value in settings.items()]
    [result] = predict(run, [str(scene)], out=out, overrides=overrides)
    assert isinstance(result, FilePrediction)
    return result


def test_every_point_has_a_label_and_a_confidence_beside_all_that_the_source_has(run: Path, tmp_path: Path) -> None:
    coord = save(tmp_path / "scan.npz")
    result = predicted(run, tmp_path / "scan.npz", tmp_path / "out")
    assert (result.status, result.num_points) == ("written", 900)
    columns = read_vertices(tmp_path / "out" / "scan-segmented.ply", 1000)
    assert np.array_equal(np.stack([columns[axis] for axis in "xyz"], axis=1), coord)
    assert columns["segment"].tolist() == [7] * 900  # of the source
    assert len(set(columns["scalar_label"].tolist()) - set(range(20))) == 0
    assert (columns["scalar_confidence"] > 0).all()
    assert (columns["scalar_confidence"] <= 1).all()
    with np.load(tmp_path / "out" / "scan-segmented.npz") as archive:
        assert np.array_equal(archive["segment"], columns["scalar_label"])
        assert np.array_equal(archive["confidence"], columns["scalar_confidence"])


def test_tiles_cover_every_point(run: Path, tmp_path: Path) -> None:
    save(tmp_path / "scan.npz", 4000)
    predicted(run, tmp_path / "scan.npz", tmp_path / "out", predict__max_points=1500)
    with np.load(tmp_path / "out" / "scan-segmented.npz") as archive:
        assert (archive["confidence"] > 0).all()


def test_tiles_have_properties_heights_and_geometry_of_the_whole_scene(tiny_segmentation: Make, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "scans" / split).mkdir(parents=True)
        save(tmp_path / "scans" / split / "scan.npz", labels=2)
    data = {"data__path": str(tmp_path / "scans"), "data__features": ["intensity", "geometry"]}
    config, manifest = prepare_run(tiny_segmentation(**data, predict__max_points=1000), Silent())
    workload, _ = build_workload(config, manifest, splits=("train",), pretrained=False, progress=Silent())
    assert isinstance(workload, SegmentationWorkload)
    coord = np.random.default_rng(1).uniform(0, [6, 4, 2], (3000, 3))
    coord[:, 2] += coord[:, 0]  # a slope
    np.savez(tmp_path / "new.npz", coord=coord, intensity=coord[:, 0])
    sizes = []

    def infer(batch: PointBatch) -> dict[str, np.ndarray]:
        assert batch.properties is not None
        assert batch.geometry is not None
        sizes.append(len(batch.coord))
        values = {"intensity": batch.properties[:, 0], "height": batch.coord[:, 2], "geometry": batch.geometry}
        return {name: value.numpy() for name, value in values.items()}

    scene, ref = read_scene(tmp_path / "new.npz"), SceneRef(tmp_path / "new.npz", "")
    found = infer_scene(workload, scene, ref, infer, Silent())
    assert len(sizes) > 2
    expected = (coord[:, 0] - coord[:, 0].mean()) / coord[:, 0].std()
    np.testing.assert_allclose(found["intensity"], expected, atol=1e-5)
    np.testing.assert_allclose(found["height"], coord[:, 2] - coord[:, 2].min(), atol=1e-5)
    assert np.array_equal(found["geometry"], geometry_features(scene.coord))


def test_points_that_a_grid_leaves_out_have_the_class_of_the_nearest_one(
    tiny_segmentation: Make, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        (tmp_path / "scans" / split).mkdir(parents=True)
        save(tmp_path / "scans" / split / "scan.npz", 2000, labels=2)
    config = tiny_segmentation(data__path=str(tmp_path / "scans"), data__grid_size=0.7, training__epochs=1)
    run = train(config).run
    coord = save(tmp_path / "new.npz", 3000)
    predicted(run, tmp_path / "new.npz", tmp_path / "out")
    with np.load(tmp_path / "out" / "new-segmented.npz") as archive:
        values = np.unique(archive["confidence"])
    assert 1 < len(values) <= len(np.unique(np.floor(coord / 0.7), axis=0)) < 300


def test_classes_of_points_cannot_be_explained(run: Path) -> None:
    with pytest.raises(ConfigError, match="--explain"):
        predict(run, [], explain=True)
