"""Arrays that lie about their size, or hold anything but numbers, are refused before memory is allocated."""

import io
import os
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest

from unit.data.scenes.scene_files import refused


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


def npy(shape, dtype="<f8", data=b"", version=1):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


ARRAYS = {
    "10^12 values": (
        npy((10**12, 3)),
        "promises 3,000,000,000,000 values; at most 60,000,000 are read: thin it out first",
    ),
    "10^12 values, second version": (
        npy((10**12, 3), version=2),
        "promises 3,000,000,000,000 values; at most 60,000,000 are read: thin it out first",
    ),
    "overflow": (npy((2**40, 2**40, 2**40)), "promises"),
    "negative": (npy((-4, 3)), "promises"),
    "two negatives": (npy((-4, -3), data=bytes(96)), "promises"),
    "truncated": (npy((4, 3), data=bytes(95)), "is truncated"),
    "objects": (npy((4, 3), dtype="|O", data=pickle.dumps(Payload())), "Python objects"),
    "objects within": (npy((4,), dtype=[("a", "|O")], data=bytes(32)), "Python objects"),
    "text": (npy((4, 3), dtype="<U1", data=bytes(48)), "instead of numbers"),
    "complex": (npy((4, 3), dtype="<c16", data=bytes(192)), "instead of numbers"),
    "long header": (b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31) + b"{" * 1000, "damaged header"),
    "code as a header": (npy("__import__('os').mkdir('payload-was-run')"), "damaged header"),
    "pickle": (pickle.dumps(Payload()), "no array in the format of NumPy"),
    "nothing": (b"\x93", "no array in the format of NumPy"),
    "later version": (npy((4, 3), version=3, data=bytes(96)), "damaged header"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_hostile_arrays_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data, reason = ARRAYS[name]
    folder = tmp_path / "scene"
    folder.mkdir()
    (folder / "coord.npy").write_bytes(data)
    assert reason in refused(folder)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
            archive.writestr("coord.npy", data)
        message = refused(tmp_path / "a.npz")
        assert reason in message
        assert "array coord" in message
    assert not (tmp_path / "payload-was-run").exists()


def test_an_archive_with_very_many_entries_is_refused(tmp_path):
    """Each entry takes ten times as much memory as its bytes."""
    count = 100_000
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    size = count * len(entry)
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, 0)
    end = struct.pack("<4sLQL", b"PK\6\7", 0, size, 1) + struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, *[65535] * 2, *[2**32 - 1] * 2, 0
    )
    path = tmp_path / "a.npz"
    path.write_bytes(entry * count + end_64 + end)
    assert "has too many arrays" in refused(path)


def test_an_archive_that_lies_about_a_size_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coord.npy", npy((10**6, 3), data=bytes(100)))
    data = buffer.getvalue()
    real = struct.pack("<I", len(npy((10**6, 3))) + 100)
    assert real in data
    (tmp_path / "a.npz").write_bytes(data.replace(real, struct.pack("<I", 6 * 10**7)))
    assert "truncated" in refused(tmp_path / "a.npz") or "damaged" in refused(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_anywhere_in_an_archive_is_reported(tmp_path, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("coord.npy", npy((50, 3), data=np.arange(150.0).tobytes()))
    good = buffer.getvalue()
    place = good.rindex(b"PK\x05\x06")
    # With a wrong offset of the list of entries, zipfile looks before the start of the file.
    far = good[: place + 16] + struct.pack("<I", 2**31) + good[place + 20 :]
    (tmp_path / "a.npz").write_bytes(far)
    assert refused(tmp_path / "a.npz").endswith("is not an archive of arrays, or is damaged")
    damaged = bytearray(good)
    start = 30 + len("coord.npy")
    damaged[start : start + 60] = bytes(60)
    (tmp_path / "a.npz").write_bytes(damaged)
    assert re.search("damaged", refused(tmp_path / "a.npz"))
