"""A saved scene is read as it was written; a damaged or hostile file is rejected, and nothing in it is executed."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.report.scenes.evaluation_scene import read_evaluation_scene
from dbbd_cli.runs.reading import read_bytes

Make = Callable[..., Any]


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
        ("coord", np.zeros((400, 2), np.float32), "coord is not an array of float32 of the expected shape"),
        ("coord", np.zeros((0, 3), np.float32), "coord is not an array of float32"),
        ("coord", np.float32(7), "coord is not an array of float32"),
        ("coord", np.zeros((400, 3)), "coord is not an array of float32"),
        ("coord", np.zeros((400, 3), ">f4"), "coord is not an array of float32"),
        ("coord", np.full((400, 3), np.nan, np.float32), "not finite"),
        ("coord", np.full((400, 3), 1e30, np.float32), "too far"),
        ("coord", np.zeros((2_000_000, 3), np.float32), "not an archive of arrays"),
        ("color", np.zeros((399, 3), np.uint8), "color is not an array of uint8"),
        ("region", np.zeros((2, 399), np.int32), "region is not an array of int32"),
        ("region", np.zeros((0, 400), np.int32), "region is not an array of int32"),
        ("region", np.int32(7), "region is not an array of int32"),
        ("segment", np.zeros((400, 1), np.int32), "segment is not an array of int32"),
        ("segment", np.full(400, -2, np.int32), "below -1"),
        ("prediction", np.full(400, -2, np.int32), "prediction contains numbers below -1"),
        ("prediction", np.zeros(399, np.int32), "prediction is not an array of int32"),
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


def test_nothing_in_a_scene_is_executed(tmp_path: Path, scene_of: Make) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    trap = np.array([Trap()] * 400, dtype=object)
    for name in ("coord", "segment"):
        np.savez(tmp_path / "evaluation_scene.npz", **{**scene_of(), name: trap})
        with pytest.raises(CheckpointError, match="not an archive"):
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
        file.truncate(2**40)  # a sparse file
    with pytest.raises(CheckpointError, match="it has 1,099,511,627,776 bytes"):
        read_bytes(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "evaluation_scene.npz")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_bytes(tmp_path / "evaluation_scene.npz")
