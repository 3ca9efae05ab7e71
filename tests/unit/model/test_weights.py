"""Only tensors and plain values are loaded: any other file is refused with its reason, and no code of it runs."""

from __future__ import annotations

import errno
import os
import pickle
import struct
from argparse import Namespace
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.model.digest import has_digest, save_with_digest
from dbbd_cli.model.weights import ContentError, InertObject, check_finite, load_tensors


class Settings:
    """A configuration object, as programs store it with the weights."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


class Slotted:
    """An object whose attributes are in slots, too."""

    __slots__ = ("a",)

    def __getstate__(self) -> tuple[None, dict[str, int]]:
        return None, {"a": 1}

    def __setstate__(self, state: object) -> None:
        raise AssertionError("the class was loaded")


@pytest.mark.parametrize("archive", [True, False])
def test_tensors_and_plain_values_are_loaded(tmp_path: Path, archive: bool) -> None:
    content = {"type": torch.bfloat16, "size": torch.Size([1, 2]), "tensor": torch.ones(2), "set": {1}, "none": None}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    assert repr(load_tensors(tmp_path / "a.pth")) == repr(content)


def test_without_data_tensors_have_shapes_only(tmp_path: Path) -> None:
    save_with_digest({"weight": torch.ones(2, 3), "epoch": 4}, tmp_path / "a.pth")
    content: Any = load_tensors(tmp_path / "a.pth", without_data=True)
    assert content["epoch"] == 4
    assert content["weight"].shape == (2, 3)
    assert content["weight"].device.type == "meta"


@pytest.mark.parametrize("settings", [Settings(a=1, inner=Settings()), Namespace(a=1), Slotted()])
def test_objects_are_read_as_attributes_if_asked_for(tmp_path: Path, settings: object) -> None:
    torch.save({"weight": torch.ones(2), "config": settings}, tmp_path / "a.pth")
    content: Any = load_tensors(tmp_path / "a.pth", objects=True)
    assert type(content["config"]) is InertObject
    assert content["config"].settings["a"] == 1
    with pytest.raises(ContentError, match=rf"was not loaded: it refers to the code of .*{type(settings).__name__},"):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("path", [Path("x"), PurePosixPath("x"), PureWindowsPath("x")])
def test_paths_are_read_as_objects_if_asked_for(tmp_path: Path, path: object) -> None:
    torch.save({"config": Namespace(path=path)}, tmp_path / "a.pth")
    content: Any = load_tensors(tmp_path / "a.pth", objects=True)
    assert type(content["config"].settings["path"]) is InertObject


@pytest.mark.parametrize("function", [os.system, pickle.loads, torch.load, eval])
@pytest.mark.parametrize("objects", [True, False])
def test_calls_are_refused_by_name(tmp_path: Path, function: Any, objects: bool) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return function, (f"touch {tmp_path / 'ran'}",)

    torch.save({"weight": torch.ones(2), "config": Call()}, tmp_path / "a.pth")
    with pytest.raises(ContentError, match=rf"was not loaded: it refers to the code of .*{function.__name__},"):
        load_tensors(tmp_path / "a.pth", objects=objects)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("value", [torch._utils._rebuild_tensor_v2, torch.Size, torch.FloatStorage])
def test_classes_and_functions_are_not_plain_values(tmp_path: Path, value: object, archive: bool) -> None:
    torch.save({"a": [value]}, tmp_path / "a.pth", _use_new_zipfile_serialization=archive, pickle_module=pickle)
    with pytest.raises(ContentError, match="not a valid file of tensors: it has a class or function"):
        load_tensors(tmp_path / "a.pth")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize("value", [nested(101), nested(30)], ids=["too deep", "too many"])
def test_values_that_are_nested_without_end_are_refused(tmp_path: Path, value: object) -> None:
    torch.save({"a": value}, tmp_path / "a.pth")
    with pytest.raises(ContentError, match="nested too deeply, or too many values"):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "a tensor that repeats its values"),
        (torch.eye(3).to_sparse(), "a sparse or quantized tensor"),
        (torch.empty(3, device="meta"), "one without data"),
    ],
)
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, tensor: torch.Tensor, reason: str) -> None:
    torch.save({"a": tensor}, tmp_path / "a.pth")
    with pytest.raises(ContentError, match=reason):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", pickle.dumps([1])])
def test_files_of_other_programs_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ContentError, match=r"a\.pth is not a valid file of tensors") as caught:
        load_tensors(tmp_path / "a.pth")
    assert "weights_only" not in caught.value.message + caught.value.hint


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pth does not exist"):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="cannot be read: it is not a regular file"):
        load_tensors(tmp_path / "a.pth")


def test_an_error_of_the_system_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be read: Input/output error") as caught:
        load_tensors(tmp_path / "a.pth")
    assert not isinstance(caught.value, ContentError)


def test_a_sparse_file_is_damaged_without_hashing_it(tmp_path: Path) -> None:
    with (tmp_path / "a.pth").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(10**9)
        file.seek(0, os.SEEK_END)
        file.write(b"PK\x05\x06" + bytes(16) + struct.pack("<H", 76) + b"dbbd sha256 " + b"0" * 64)
    assert has_digest(tmp_path / "a.pth")
    with pytest.raises(ContentError, match=r"a\.pth is damaged: its SHA-256 does not match"):
        load_tensors(tmp_path / "a.pth")


def test_a_file_larger_than_the_free_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(200)}, tmp_path / "a.pth")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=500))
    with pytest.raises(CheckpointError, match=r"a\.pth needs 0\.0 GB of memory, and only 0\.0 GB is free"):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    check_finite({"a": torch.ones(2), "step": 3}, Path("a.pth"))
    with pytest.raises(CheckpointError, match=r"a\.pth: b has non-finite values"):
        check_finite({"a": torch.ones(2), "b": torch.tensor([1.0, value])}, Path("a.pth"))
