from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.report.run import read_bytes, read_evaluation
from dbbd_cli.report.scenes.evaluation_scene import read_evaluation_scene
from dbbd_cli.services.plot import plot

Make = Callable[..., Any]
FIGURES = ["training_history", "level_losses", "probe", "scene_features", "region_tree"]


def write(folder: Path, evaluation: dict[str, Any], scene: dict[str, Any] | None = None) -> Path:
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    if scene is not None:
        np.savez_compressed(folder / "evaluation_scene.npz", **scene)
    return folder


def change(evaluation: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place: Any = evaluation
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    place[int(last) if last.isdigit() else last] = value


def test_an_evaluated_run_is_drawn_from_its_folder(make_run: Make, pretraining_of: Make, scene_of: Make) -> None:
    folder = write(make_run(task="dbbd"), pretraining_of(), scene_of())
    assert plot([folder], out=None, format="png").files == [folder / f"{name}.png" for name in FIGURES]


def test_without_the_scene_the_rest_is_drawn(make_run: Make, pretraining_of: Make, tmp_path: Path) -> None:
    folder = write(make_run(task="dbbd"), pretraining_of())
    files = plot([folder], out=tmp_path / "out", format="svg").files
    assert [file.stem for file in files] == FIGURES[:3]


def test_the_scene_of_another_task_is_left_alone(make_run: Make, evaluation_of: Make) -> None:
    folder = write(make_run(), {**evaluation_of(), "curves": None})
    (folder / "evaluation_scene.npz").write_bytes(b"damaged")
    assert [file.stem for file in plot([folder], out=None, format="png").files] == [
        "training_history",
        "confusion_matrix",
    ]


def test_a_damaged_scene_ends_drawing_before_anything_is_written(
    make_run: Make, pretraining_of: Make, tmp_path: Path
) -> None:
    folder = write(make_run(task="dbbd"), pretraining_of())
    (folder / "evaluation_scene.npz").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"evaluation_scene\.npz"):
        plot([folder], out=tmp_path / "out", format="png")
    assert not (tmp_path / "out").exists()


def test_what_was_not_measured_may_be_null_or_absent(make_run: Make, pretraining_of: Make, tmp_path: Path) -> None:
    folder = make_run(task="dbbd")
    whole = pretraining_of()
    for entry in whole["contrast"]:
        entry |= dict.fromkeys(("rows", "loss", "chance", "top1"))
    for entry in whole["probe"]["features"]:
        entry |= dict.fromkeys(("dim", "miou", "mean_accuracy", "overall_accuracy"))
    for evaluation in (
        whole,
        {"format": 1, "task": "dbbd"},
        {key: value if key in ("format", "task") else None for key, value in whole.items()},
        {**whole, "probe": None, "probe_missing": "the scenes have no labels", "scene": {}},
    ):
        write(folder, evaluation)
        assert read_evaluation(folder) == evaluation
        plot([folder], out=tmp_path / "out", format="html")


def test_ignored_labels_are_in_the_page_and_checked(make_run: Make, pretraining_of: Make, tmp_path: Path) -> None:
    folder = make_run(task="dbbd")
    rows = [{"label": 255, "points": 1204}, {"label": None, "points": 2}]
    write(folder, {**pretraining_of(), "ignored_labels": rows})
    (page,) = plot([folder], out=tmp_path / "out", format="html").files
    assert "255 (1,204 points), negative or NaN (2 points)" in page.read_text(encoding="utf-8")
    for wrong in ({}, [255], [{"label": 255}], [{"label": "255", "points": 1}], [{"label": True, "points": 1}]):
        write(folder, {**pretraining_of(), "ignored_labels": wrong or {"label": 1}})
        with pytest.raises(CheckpointError, match="ignored_labels is not a list of labels"):
            read_evaluation(folder)


def test_a_scene_is_read(tmp_path: Path, scene_of: Make) -> None:
    for scene in (
        scene_of(),
        scene_of(labels=False),
        {**scene_of(), "region": np.asfortranarray(scene_of()["region"])},
    ):
        np.savez(tmp_path / "evaluation_scene.npz", **scene)
        found = read_evaluation_scene((tmp_path / "evaluation_scene.npz").read_bytes())
        assert found.keys() == scene.keys()
        assert all((found[name] == array).all() and found[name].dtype == array.dtype for name, array in scene.items())


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("coord", None, "coord is missing"),
        ("coord", np.zeros((400, 2), np.float32), "coord has an unfitting shape"),
        ("coord", np.zeros((0, 3), np.float32), "no points"),
        ("coord", np.zeros((400, 3)), "coord is not an array of float32"),
        ("coord", np.zeros((400, 3), ">f4"), "coord is not an array of float32"),
        ("coord", np.full((400, 3), np.nan, np.float32), "not finite"),
        ("coord", np.full((400, 3), np.inf, np.float32), "not finite"),
        ("coord", np.full((400, 3), 1e30, np.float32), "too far"),
        ("coord", np.zeros((100_001, 3), np.float32), "coord has an unfitting shape"),
        ("coord", np.array([[0, 0, {}]] * 400), "coord is not an array of float32"),
        ("color", None, "color is missing"),
        ("color", np.zeros((399, 3), np.uint8), "color has an unfitting shape"),
        ("color", np.zeros((400, 3), np.float32), "color is not an array of uint8"),
        ("region", np.zeros((2, 399), np.int32), "region has an unfitting shape"),
        ("region", np.zeros((0, 400), np.int32), "0 levels"),
        ("region", np.zeros((34, 400), np.int32), "34 levels"),
        ("region", np.int32(7), "region has an unfitting shape"),
        ("segment", np.zeros((400, 1), np.int32), "segment has an unfitting shape"),
        ("segment", np.full(400, -2, np.int32), "under -1"),
        ("segment", np.zeros(400, [("x", "i4")]), "segment is not an array of int32"),
    ],
)
def test_a_damaged_array_is_named(tmp_path: Path, scene_of: Make, name: str, value: Any, problem: str) -> None:
    scene = {**scene_of(), name: value}
    np.savez(tmp_path / "evaluation_scene.npz", **{key: array for key, array in scene.items() if array is not None})
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_evaluation_scene((tmp_path / "evaluation_scene.npz").read_bytes())
    assert "evaluation_scene.npz" in caught.value.message
    assert "dbbd evaluate" in caught.value.hint


def test_nothing_in_a_scene_is_run(tmp_path: Path, scene_of: Make) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    trap = np.array([Trap()] * 400, dtype=object)
    for name in ("coord", "segment"):
        np.savez(tmp_path / "evaluation_scene.npz", **{**scene_of(), name: trap})
        with pytest.raises(CheckpointError, match=f"{name} is not an array"):
            read_evaluation_scene((tmp_path / "evaluation_scene.npz").read_bytes())
    (tmp_path / "evaluation_scene.npz").write_bytes(trap.dumps())
    with pytest.raises(CheckpointError, match="not an archive"):
        read_evaluation_scene((tmp_path / "evaluation_scene.npz").read_bytes())
    assert not (tmp_path / "ran").exists()


def npy(header: bytes, version: bytes = b"\x01\x00", body: bytes = b"") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not numpy",
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (400, 3), }\n"),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (400, 3)", body=bytes(4800)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 3), }\n", body=bytes(4800)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-400, 3), }\n", body=bytes(4800)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3), }\n", body=bytes(4800)),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (400, 3), }\n", body=b"cos\nsystem\n(S'true'\ntR."),
        npy(b"[" * 9000),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (400, 3), }\n", version=b"\x09\x00", body=bytes(4800)),
    ],
)
def test_a_damaged_member_is_named(tmp_path: Path, scene_of: Make, content: bytes) -> None:
    path = tmp_path / "evaluation_scene.npz"
    rest = scene_of()
    del rest["coord"]
    np.savez(path, **rest)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("coord.npy", content)
    with pytest.raises(CheckpointError, match=r"evaluation_scene\.npz"):
        read_evaluation_scene((tmp_path / "evaluation_scene.npz").read_bytes())


def test_a_damaged_archive_is_named(tmp_path: Path, scene_of: Make) -> None:
    path = tmp_path / "evaluation_scene.npz"
    whole = io.BytesIO()
    np.savez_compressed(whole, **scene_of())
    content = whole.getvalue()
    turned = bytearray(content)
    turned[200] ^= 255
    for damaged in (b"", b"PK", content[:-30], content[: len(content) // 2], bytes(turned), b"[" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"evaluation_scene\.npz"):
            read_evaluation_scene((tmp_path / "evaluation_scene.npz").read_bytes())
    with path.open("wb") as file:
        file.truncate(2**40)  # holds nothing, takes no room
    with pytest.raises(CheckpointError, match="it has 1,099,511,627,776 bytes"):
        read_bytes(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "evaluation_scene.npz")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_bytes(tmp_path / "evaluation_scene.npz")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("num_points", -1, "num_points"),
        ("region_loss", "low", "region_loss"),
        ("point_loss", 1e308, "point_loss"),
        ("alignment", True, "alignment"),
        ("uniformity", [1], "uniformity"),
        ("feature_std", {}, "feature_std"),
        ("effective_rank", "31", "effective_rank"),
        ("contrast", {}, "contrast"),
        ("contrast", [[]], "contrast"),
        ("contrast", [{"name": "x"}] * 65, "contrast"),
        ("contrast.0.name", None, "contrast"),
        ("contrast.0.loss", "x", "contrast"),
        ("contrast.0.rows", -1, "contrast"),
        ("contrast.0.chance", 1e308, "contrast"),
        ("contrast.1.top1", 1.5, "contrast"),
        ("probe", [], "probe"),
        ("probe.classes", None, "probe"),
        ("probe.classes", ["floor"], "probe"),
        ("probe.classes.0", 7, "probe"),
        ("probe.train_scenes", 0.5, "probe"),
        ("probe.features", None, "probe"),
        ("probe.features.0", None, "probe"),
        ("probe.features.0.name", 1, "probe"),
        ("probe.features.0.dim", "192", "probe"),
        ("probe.features.0.miou", 2, "probe"),
        ("probe.features.1.per_class_iou", None, "probe"),
        ("probe.features.1.per_class_iou", [0.5], "probe"),
        ("probe.features.1.per_class_iou.0", "x", "probe"),
        ("probe_missing", 7, "probe_missing"),
        ("scene", "room", "scene"),
        ("scene.name", 7, "scene"),
        ("scene.classes", "floor", "scene"),
        ("scene.classes.0", None, "scene"),
        ("split", 7, "split"),
        ("format", 2, "format is 2"),
    ],
)
def test_a_damaged_evaluation_is_named(
    make_run: Make, pretraining_of: Make, key: str, value: object, problem: str
) -> None:
    evaluation = pretraining_of()
    change(evaluation, key, value)
    folder = write(make_run(task="dbbd"), evaluation)
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_evaluation(folder)
    assert "evaluation.json" in caught.value.message
    assert "dbbd evaluate" in caught.value.hint
