"""Arrays of numbers are read from `.npy` and `.npz` files; others, damaged or too large ones are refused cheaply."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.data.scenes.formats.numpy_files import npz_names, read_npy, read_npz

DAMAGED = "is not an array of numbers in NumPy format"


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("payload-was-run"),)  # type: ignore[return-value]


def npy(shape: object, dtype: object = "<f8", data: bytes = b"", version: int = 1) -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


HOSTILE = {
    "10^12 values": npy((10**12, 3)),
    "10^12 values, second version": npy((10**12, 3), version=2),
    "overflow": npy((2**40, 2**40, 2**40)),
    "negative": npy((-4, 3)),
    "two negatives": npy((-4, -3), data=bytes(96)),
    "truncated": npy((4, 3), data=bytes(95)),
    "objects": npy((4, 3), dtype="|O", data=pickle.dumps(Payload())),
    "objects within": npy((4,), dtype=[("a", "|O")], data=bytes(32)),
    "text": npy((4, 3), dtype="<U1", data=bytes(48)),
    "complex": npy((4, 3), dtype="<c16", data=bytes(192)),
    "long header": b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31) + b"{" * 1000,
    "code as a header": npy("__import__('os').mkdir('payload-was-run')"),
    "pickle": pickle.dumps(Payload()),
    "nothing": b"\x93",
}


def refused_npy(path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read_npy(path, 60)
    return str(caught.value)


def refused_npz(path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read_npz(path, "coord", 60_000_000)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "|u1", "<i8", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_are_read(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.arange(12).reshape(4, 3).astype(dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", Coord=array, other=np.zeros(3))
    assert npz_names(tmp_path / "a.npz") == ["coord", "other"]
    for found in (read_npy(tmp_path / "a.npy", 12), read_npz(tmp_path / "a.npz", "coord", 12)):
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)
        assert type(found) is np.ndarray
        assert found.flags.writeable


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_npy(tmp_path / "a.npy", 1)
    with pytest.raises(FileNotFoundError):
        npz_names(tmp_path / "a.npz")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_refused_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.chdir(tmp_path)
    # Memory that is used, not reserved: numpy reserves what a header declares before it reads the data.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "coord.npy").write_bytes(HOSTILE[name])
    assert refused_npy(tmp_path / "coord.npy").startswith(DAMAGED)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
            archive.writestr("coord.npy", HOSTILE[name])
        message = refused_npz(tmp_path / "a.npz")
        assert message.startswith(f"its array coord {DAMAGED}") or "does not fit into free memory" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 2**10
    assert not (tmp_path / "payload-was-run").exists()


def test_arrays_with_too_many_values_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    np.save(tmp_path / "coord.npy", np.zeros((21, 3)))
    assert refused_npy(tmp_path / "coord.npy").startswith("has 63 values; at most 60 are read")
    np.savez_compressed(tmp_path / "a.npz", coord=np.zeros(10_000_000), few=np.zeros(61))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="its array coord has 80,000,128 bytes; at most 60 values are read"):
            read_npz(tmp_path / "a.npz", "coord", 60)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
    with pytest.raises(ValueError, match="its array few has 61 values; at most 60 are read"):
        read_npz(tmp_path / "a.npz", "few", 60)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("coord.npy", "coord.npy"), ("coord.npy", "coord"), ("coord", "coord.npy")])
@pytest.mark.parametrize("sizes", [(1, 100_000), (100_000, 1)])
def test_the_largest_entry_of_a_name_counts(tmp_path: Path, names: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in zip(names, sizes, strict=True):
            archive.writestr(name, npy((size, 1), data=bytes(8 * size)))
    with pytest.raises(ValueError, match=r"its array coord has 800,\d{3} bytes; at most 60 values"):
        read_npz(tmp_path / "a.npz", "coord", 60)


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coord.npy", npy((10**6, 3), data=bytes(100)))
    data = buffer.getvalue()
    real = struct.pack("<I", len(npy((10**6, 3))) + 100)
    assert real in data
    (tmp_path / "a.npz").write_bytes(data.replace(real, struct.pack("<I", 6 * 10**7)))
    assert "or is damaged" in refused_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_refused(tmp_path: Path, method: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("coord.npy", npy((50, 3), data=np.arange(150.0).tobytes()))
    good = buffer.getvalue()
    place = good.rindex(b"PK\x05\x06")
    # The list of entries claims to begin elsewhere: zipfile then looks before the start of the file.
    (tmp_path / "a.npz").write_bytes(good[: place + 16] + struct.pack("<I", 2**31) + good[place + 20 :])
    assert refused_npz(tmp_path / "a.npz").endswith("or is damaged")
    damaged = bytearray(good)
    start = 30 + len("coord.npy")
    damaged[start : start + 60] = bytes(60)
    (tmp_path / "a.npz").write_bytes(damaged)
    assert refused_npz(tmp_path / "a.npz").endswith("or is damaged")
