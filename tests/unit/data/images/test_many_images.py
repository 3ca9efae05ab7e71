"""With many images, a warm start reads none of them, and each takes little memory, in workers too."""

from __future__ import annotations

import gc
import pickle
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from dbbd_cli.core.progress import Silent
from dbbd_cli.data.candidates import Sampling
from dbbd_cli.data.images import file_index, processes
from dbbd_cli.data.images.dataset import ImageDataset
from dbbd_cli.data.images.manifest import make_manifest, prepare_manifest
from dbbd_cli.data.images.sources import list_folder
from dbbd_cli.data.loader import BatchLoader, Key
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.urls.cleaning import UrlCleaning

COUNT = 2000
Result = TypeVar("Result")

_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_hook)  # cannot be removed


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths that this process opens."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file_index, "_SETTLED_NS", -(10**12))
    for number in range(COUNT):
        path = tmp_path / "data" / "ab"[number % 2] / str(number // 500) / f"{number}.pgm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"P5 8 8 255\n" + number.to_bytes(2, "big") * 32)
    return tmp_path / "data"


def start(folder: Path) -> tuple[Manifest, ImageDataset]:
    source, cache = list_folder(folder), folder.parent / "cache"
    sampling = Sampling(None, False, (0.7, 0.15, 0.15), False, "fail", 1)
    settings = {"cleaning": UrlCleaning(), "image_size": 8, "cache_dir": cache, "progress": Silent()}
    manifest = make_manifest(source, sampling=sampling, **settings)
    prepared, samples = prepare_manifest(manifest, splits=("train", "val"), roots=source.roots, **settings)
    return manifest, ImageDataset(prepared, range(COUNT), samples.labels)


@pytest.mark.parametrize("limit", [40 * 1024**3, 300_000], ids=["kept", "not kept"])
def test_a_warm_start_reads_no_image(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", limit)
    first, dataset = start(folder)
    batch = dataset.__getitems__([(1, 5), (1, 7)])
    assert len([path for path in opened if path.endswith(".pgm")]) >= COUNT
    opened.clear()
    monkeypatch.setattr(processes, "_in_workers", lambda *_: pytest.fail("an image is decoded"))
    again, dataset = start(folder)
    assert [path for path in opened if path.endswith(".pgm")] == []
    assert again == first
    assert again.digest() == first.digest()
    assert np.array_equal(dataset.__getitems__([(1, 5), (1, 7)]).pixels, batch.pixels)


def memory_of(function: Callable[[], Result]) -> tuple[Result, float, float]:
    """The result of a function, and the bytes that it keeps and that it takes at most, for each image."""
    gc.collect()
    tracemalloc.start()
    try:
        result = function()
        gc.collect()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return result, kept / COUNT, peak / COUNT


def test_an_image_takes_little_memory(folder: Path) -> None:
    start(folder)  # what is imported does not count
    (manifest, dataset), kept, peak = memory_of(lambda: start(folder))
    assert kept < 1000, f"{kept:.0f} bytes are kept of each image"  # 0.5 kB, of which paths and digests are most
    assert peak < 2500, f"{peak:.0f} bytes are needed of each image"
    _, kept, peak = memory_of(lambda: manifest.digest())
    assert peak < 2500, f"{peak:.0f} bytes are needed of each row of splits.json"
    assert len(pickle.dumps(dataset)) / COUNT < 250  # of which the path and the digest are 150


def test_the_keys_of_an_epoch_are_not_made_in_advance() -> None:
    class Numbers:
        def __len__(self) -> int:
            return COUNT

        def __getitems__(self, keys: list[Key]) -> list[Key]:
            return keys

    def first_batch() -> list[Key]:
        batch: list[Key] = next(iter(BatchLoader(Numbers(), batch_size=100, shuffle=True, seed=5).batches(1)))
        return batch

    first_batch()
    batch, _, peak = memory_of(first_batch)
    assert len(batch) == 100
    assert peak < 120, f"{peak:.0f} bytes for each sample"  # a key takes 120
