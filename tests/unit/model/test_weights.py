from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.model import weights as safe_load
from dbbd_cli.model.digest import is_sealed
from dbbd_cli.model.weights import load_tensors


@pytest.mark.parametrize("archive", [True, False])
def test_data_types_are_plain_values(tmp_path: Path, archive: bool) -> None:
    content = {"type": torch.bfloat16, "size": torch.Size([1, 2]), "tensor": torch.ones(2)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    assert repr(load_tensors(tmp_path / "a.pth")) == repr(content)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("value", [torch._utils._rebuild_tensor_v2, torch.Size, torch.FloatStorage])
def test_what_is_named_and_not_called_is_refused(tmp_path: Path, value: object, archive: bool) -> None:
    torch.save({"a": [value]}, tmp_path / "a.pth", _use_new_zipfile_serialization=archive, pickle_module=pickle)
    with pytest.raises(CheckpointError, match=r"was not loaded: it wants the code of torch\."):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="cannot be read: it is not a regular file"):
        load_tensors(tmp_path / "a.pth")


def test_of_a_file_of_holes_that_ends_like_ours_nothing_is_hashed(tmp_path: Path) -> None:
    with (tmp_path / "a.pth").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(10**12)
        file.seek(0, os.SEEK_END)
        file.write(b"PK\x05\x06" + bytes(16) + struct.pack("<H", 76) + b"dbbd sha256 " + b"0" * 64)
    assert is_sealed(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth is damaged: it is no ZIP archive"):
        load_tensors(tmp_path / "a.pth")


def test_a_file_that_is_larger_than_the_free_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(200)}, tmp_path / "a.pth")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=500))
    with pytest.raises(CheckpointError, match=r"a\.pth has 0\.0 GB, and 0\.0 GB of memory are free"):
        load_tensors(tmp_path / "a.pth")


def test_a_file_that_does_not_fit_into_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    monkeypatch.setattr(safe_load, "check_tensor_file", fail)
    with pytest.raises(CheckpointError, match="does not fit into the memory that is free"):
        load_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("builtins bytearray", b"B" + struct.pack("<I", 1_000_000) + bytes(1_000_000)),
        ("builtins set", b"](" + b"".join(b"J" + struct.pack("<i", number) for number in range(10_000)) + b"e"),
    ],
    ids=["bytes", "set"],
)
def test_a_small_file_cannot_ask_for_copies_without_end(name: str, value: bytes, tmp_path: Path) -> None:
    function = "\n".join(name.split()).encode() + b"\n"
    content = b"\x80\x02" + value + b"q\x000c" + function + b"q\x010](" + b"h\x01h\x00\x85R" * 200 + b"e."
    path = tmp_path / "copies.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
    with pytest.raises(CheckpointError, match="more than 6,000,000 values"):
        load_tensors(path)
