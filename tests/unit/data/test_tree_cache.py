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
from dbbd_cli.data.tree_cache import cached_tree

from dbbd_cli.data import tree_cache
from dbbd_cli.data.array_cache import Arrays, cached_arrays, content_key, make_room
from dbbd_cli.data.region_tree import RegionTree, check_tree
from dbbd_cli.data.tree_builder import build_tree
from dbbd_cli.errors import DataError, DiskError

COORD = np.random.default_rng(0).random((600, 3)).astype(np.float32)
ARRAYS = ("parent", "level", "center_idx", "indices", "indices_ptr")


def anything(arrays: Arrays) -> bool:
    return True


def assert_equal(first: RegionTree, second: RegionTree) -> None:
    for name in ARRAYS:
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The settings of every tree that was built rather than read."""
    made: list[dict[str, int]] = []

    def counting(coord: np.ndarray, **settings: int) -> RegionTree:
        made.append(settings)
        return build_tree(coord, **settings)

    monkeypatch.setattr(tree_cache, "build_tree", counting)
    return made


def the_file(folder: Path) -> Path:
    (path,) = folder.iterdir()  # neither locks nor temporary files stay
    assert path.suffix == ".arrays"
    return path


def test_a_tree_is_built_once_and_read_afterwards(tmp_path: Path, builds: list[dict[str, int]]) -> None:
    first = cached_tree(COORD, tmp_path / "new" / "cache")
    again = cached_tree(COORD.copy(), tmp_path / "new" / "cache")
    assert_equal(first, again)
    assert_equal(first, build_tree(COORD))
    assert len(builds) == 1
    the_file(tmp_path / "new" / "cache")


def test_other_coordinates_or_settings_make_another_tree(tmp_path: Path, builds: list[dict[str, int]]) -> None:
    moved = COORD.copy()
    moved[17, 1] = np.nextafter(moved[17, 1], np.float32(2))
    for _ in range(2):
        trees = [
            cached_tree(COORD, tmp_path),
            cached_tree(moved, tmp_path),
            cached_tree(COORD, tmp_path, max_depth=1),
            cached_tree(COORD, tmp_path, min_region_points=2),
        ]
        assert [tree.num_levels for tree in trees][2] == 2
        assert trees[3].num_regions > trees[0].num_regions
    assert len(builds) == 4


def test_the_arrays_are_mapped_read_only(tmp_path: Path) -> None:
    tree = cached_tree(COORD, tmp_path)
    assert not tree.indices.flags.writeable
    base = tree.indices.base
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
def test_a_damaged_file_is_made_again(
    tmp_path: Path, builds: list[dict[str, int]], damage: Callable[[Path], None]
) -> None:
    cached_tree(COORD, tmp_path)
    path = the_file(tmp_path)
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    assert_equal(cached_tree(COORD, tmp_path), build_tree(COORD))
    assert the_file(tmp_path).read_bytes() == whole
    assert len(builds) == 2


def test_a_whole_file_with_something_else_is_made_again(tmp_path: Path, builds: list[dict[str, int]]) -> None:
    settings = {"max_depth": 4, "min_region_points": 16}
    key = content_key({"coord": COORD}, version=1, **settings)
    broken = vars(build_tree(COORD)) | {"center_idx": np.zeros_like(build_tree(COORD).center_idx)}
    for wrong in (broken, {"other": np.zeros(3)}):
        for path in tmp_path.iterdir():
            path.unlink()
        cached_arrays(tmp_path, "tree", key, lambda wrong=wrong: wrong, anything)
        builds.clear()
        check_tree(cached_tree(COORD, tmp_path), len(COORD))
        assert builds == [settings]


def test_any_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "empty": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.array(5.5),
        "flags": np.array([True, False, True]),
        "turned": np.arange(12, dtype=np.int16).reshape(3, 4).T,
        "größe": np.array([1, 2], dtype=">i8"),
    }
    for _ in range(2):
        back = cached_arrays(tmp_path, "scene", "0" * 32, lambda: arrays, anything)
        assert list(back) == list(arrays)
        for name, array in arrays.items():
            assert np.array_equal(back[name], array)
            assert (back[name].shape, back[name].dtype) == (array.shape, array.dtype)


def test_the_key_is_that_of_the_content() -> None:
    key = content_key({"coord": COORD, "normal": COORD}, depth=4)
    assert key == content_key({"normal": COORD, "coord": np.asfortranarray(COORD)}, depth=4)
    assert len({key, content_key({"coord": COORD}, depth=4), content_key({"coord": COORD}, depth=5)}) == 3
    assert content_key({"coord": COORD}) != content_key({"coord": COORD.reshape(3, -1)})
    assert content_key({"coord": COORD}) != content_key({"coord": COORD.view(np.int32)})


def test_one_of_many_threads_makes_the_arrays_and_the_others_wait(tmp_path: Path) -> None:
    made, together = [], threading.Barrier(4)

    def make() -> Arrays:
        made.append(threading.get_ident())
        time.sleep(0.05)
        return {"values": np.arange(10)}

    def ask() -> Arrays:
        together.wait()
        return cached_arrays(tmp_path, "scene", "1" * 32, make, anything)

    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(ask) for _ in range(4)]]
    assert len(made) == 1
    assert all(np.array_equal(result["values"], np.arange(10)) for result in results)


def tree_in_a_process(folder: Path, seeds: list[int]) -> list[int]:
    return [cached_tree(np.random.default_rng(seed).random((400, 3)), folder).num_regions for seed in seeds]


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    seeds = list(range(20))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = (pool.submit(tree_in_a_process, tmp_path, seeds) for _ in range(2))
        assert first.result() == second.result() == tree_in_a_process(tmp_path / "alone", seeds)
    assert len([path for path in tmp_path.iterdir() if path.suffix == ".arrays"]) == 20
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".tmp", ".lock")]


def test_what_fails_while_it_is_made_leaves_nothing_and_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="finite"):
        cached_tree(np.full((5, 3), np.nan), tmp_path)

    def make() -> Arrays:
        raise FileNotFoundError("scene.ply")

    with pytest.raises(FileNotFoundError):
        cached_arrays(tmp_path, "scene", "2" * 32, make, anything)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        cached_tree(COORD, tmp_path / "file" / "cache")


def test_a_full_disk_is_an_error_of_the_disk_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(DiskError, match="no space left on device"):
            cached_tree(COORD, tmp_path)
    assert not list(tmp_path.iterdir())
    assert_equal(cached_tree(COORD, tmp_path), build_tree(COORD))


def test_the_files_used_least_recently_make_room(tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "middle", "oldest"]):
        path = tmp_path / f"tree-{name}.arrays"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    for name in ("tree-a.arrays.1234.tmp", "images-b.tmp", "images-c.u8"):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / "tree-d.arrays.5678.tmp").write_bytes(bytes(100))  # another process is writing it
    make_room(tmp_path, needed=50, limit=270)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["images-b.tmp", "images-c.u8", "tree-d.arrays.5678.tmp", "tree-middle.arrays", "tree-newest.arrays"]


def test_reading_a_file_is_using_it(tmp_path: Path) -> None:
    cached_tree(COORD, tmp_path)
    path = the_file(tmp_path)
    os.utime(path, (1e9, 1e9))
    cached_tree(COORD, tmp_path)
    assert path.stat().st_mtime > 1.1e9
