"""Arrays in the cache come back as they were, are made once, and are made again when their file is damaged."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.data.array_cache import Arrays, cached_arrays, read_arrays
from dbbd_cli.data.cache import MARK

NAME = f"scene-{'0' * 32}.arrays"


def kept(folder: Path) -> list[Path]:
    """The content of a cache folder without its mark."""
    return [path for path in folder.iterdir() if path.name != MARK]


def anything(arrays: Arrays) -> bool:
    return True


class Values:
    """Makes the same arrays each time, and counts how often."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.arrays = {
            "coord": rng.random((600, 3)).astype(np.float32),
            "parent": rng.integers(0, 600, 90, dtype=np.int32),
        }
        self.times = 0

    def __call__(self) -> Arrays:
        self.times += 1
        return self.arrays

    def assert_in(self, found: Arrays) -> None:
        assert list(found) == list(self.arrays)
        for name, array in self.arrays.items():
            assert np.array_equal(found[name], array)
            assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)


def the_file(folder: Path) -> Path:
    (path,) = kept(folder)  # no lock or temporary file is left
    assert path.suffix == ".arrays"
    return path


def test_arrays_are_made_once_and_read_afterwards(tmp_path: Path) -> None:
    folder, make = tmp_path / "new" / "cache", Values()
    assert read_arrays(folder / NAME, anything) is None
    for _ in range(3):
        make.assert_in(cached_arrays(folder / NAME, make, anything))
    assert make.times == 1
    assert the_file(folder).name == NAME
    found = read_arrays(folder / NAME, anything)
    assert found is not None
    make.assert_in(found)


def test_each_name_is_a_file_of_its_own(tmp_path: Path) -> None:
    makes = [Values(seed) for seed in range(2)]
    for _ in range(2):
        for number, make in enumerate(makes):
            make.assert_in(cached_arrays(tmp_path / f"scene-{number}.arrays", make, anything))
    assert [make.times for make in makes] == [1, 1]
    assert len(kept(tmp_path)) == 2


def test_the_arrays_are_mapped_read_only(tmp_path: Path) -> None:
    for _ in range(2):
        array = cached_arrays(tmp_path / NAME, Values(), anything)["parent"]
        assert not array.flags.writeable
        base = array.base
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-64])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(64))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def another(path: Path) -> None:
    path.write_bytes(b"other" + path.read_bytes())


def header_length(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"\xff" * 8 + data[16:])


def header_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"<i4", b"<u4", 1))


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage", [cut, longer, empty, short, zeros, another, header_length, header_text, one_bit], ids=lambda d: d.__name__
)
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make = Values()
    cached_arrays(tmp_path / NAME, make, anything)
    path = the_file(tmp_path)
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    assert read_arrays(tmp_path / NAME, anything) is None
    make.assert_in(cached_arrays(tmp_path / NAME, make, anything))
    assert the_file(tmp_path).read_bytes() == whole
    assert make.times == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_instead_of_a_file_does_not_block(tmp_path: Path) -> None:
    make = Values()
    cached_arrays(tmp_path / NAME, make, anything)
    path = the_file(tmp_path)
    path.unlink()
    os.mkfifo(path)
    make.assert_in(cached_arrays(tmp_path / NAME, make, anything))
    assert the_file(tmp_path).is_file()


def test_an_intact_file_with_other_arrays_is_made_again(tmp_path: Path) -> None:
    make = Values()
    cached_arrays(tmp_path / NAME, lambda: {"other": np.zeros(3)}, anything)
    for _ in range(2):
        make.assert_in(cached_arrays(tmp_path / NAME, make, lambda arrays: "coord" in arrays))
    assert make.times == 1
    assert read_arrays(tmp_path / NAME, lambda arrays: "other" in arrays) is None


def test_any_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    make = Values()
    make.arrays = {
        "empty": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.array(5.5),
        "flags": np.array([True, False, True]),
        "turned": np.arange(12, dtype=np.int16).reshape(3, 4).T,
        "größe": np.array([1, 2], dtype=">i8"),
    }
    for _ in range(2):
        make.assert_in(cached_arrays(tmp_path / NAME, make, anything))


def test_one_of_several_threads_makes_the_arrays_while_the_others_wait(tmp_path: Path) -> None:
    made, together = [], threading.Barrier(4)

    def make() -> Arrays:
        made.append(threading.get_ident())
        time.sleep(0.05)
        return {"values": np.arange(10)}

    def ask() -> Arrays:
        together.wait()
        return cached_arrays(tmp_path / NAME, make, anything)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(ask) for _ in range(4)]]
    assert len(made) == 1
    assert all(np.array_equal(result["values"], np.arange(10)) for result in results)


def sums_in_a_process(folder: Path, seeds: list[int]) -> list[int]:
    return [
        int(cached_arrays(folder / f"scene-{seed:032x}.arrays", Values(seed), anything)["parent"].sum())
        for seed in seeds
    ]


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    seeds = list(range(20))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = (pool.submit(sums_in_a_process, tmp_path, seeds) for _ in range(2))
        assert first.result() == second.result() == [int(Values(seed).arrays["parent"].sum()) for seed in seeds]
    assert len([path for path in kept(tmp_path) if path.suffix == ".arrays"]) == 20
    assert not [path for path in kept(tmp_path) if path.suffix in (".tmp", ".lock")]


def test_an_error_while_arrays_are_made_is_raised_unchanged_and_leaves_no_file(tmp_path: Path) -> None:
    for error in (FileNotFoundError("scene.ply"), DataError("no scene")):

        def make(error: Exception = error) -> Arrays:
            raise error

        with pytest.raises(type(error)) as caught:
            cached_arrays(tmp_path / NAME, make, anything)
        assert caught.value is error
        assert not kept(tmp_path)


def test_an_unwritable_cache_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        cached_arrays(tmp_path / "file" / "cache" / NAME, Values(), anything)


def test_a_full_disk_is_a_disk_error_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    make = Values()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(DiskError, match="no space left on device"):
            cached_arrays(tmp_path / NAME, make, anything)
    assert not kept(tmp_path)
    make.assert_in(cached_arrays(tmp_path / NAME, make, anything))


def test_reading_a_file_marks_it_as_used(tmp_path: Path) -> None:
    cached_arrays(tmp_path / NAME, Values(), anything)
    path = the_file(tmp_path)
    for read in (
        lambda: cached_arrays(tmp_path / NAME, Values(), anything),
        lambda: read_arrays(tmp_path / NAME, anything),
    ):
        os.utime(path, (1e9, 1e9))
        read()
        assert path.stat().st_mtime > 1.1e9
