"""The image cache returns the right pixels, is written once and shared, and is never used when damaged."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.data.cache import MARK
from dbbd_cli.data.checked_file import size_with_checksums
from dbbd_cli.data.images import cache as image_cache
from dbbd_cli.data.images.cache import cached_images, prepare_images
from dbbd_cli.data.images.decode import decode_image
from dbbd_cli.data.images.qr_code import render_qr
from dbbd_cli.data.images.refs import ImageRef, hash_files
from dbbd_cli.data.urls.cleaning import url_sha256


def kept(folder: Path) -> list[Path]:
    """What a cache folder contains besides its marker."""
    return [path for path in folder.iterdir() if path.name != MARK]


class Recorder(Silent):
    """Remembers the titles of the phases."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.totals: list[int] = []

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        self.titles.append(title)
        self.totals.append(total)
        with super().phase(title, total, unit, done, sample_unit) as phase:
            yield phase

    def facts(self, title: str, rows: Mapping[str, str]) -> None: ...

    def warn(self, text: str) -> None:
        self.titles.append(text)


def url_refs(count: int) -> list[ImageRef]:
    urls = [f"site.example/page/{index}" for index in range(count)]
    return [ImageRef(url_sha256(url), url=url) for url in urls]


def file_refs(folder: Path, count: int) -> list[ImageRef]:
    refs = []
    folder.mkdir(exist_ok=True)
    for index in range(count):
        path = folder / f"{index}.png"
        Image.new("RGB", (20, 10), (index, 0, 0)).save(path)
        refs.append(ImageRef(hashlib.sha256(path.read_bytes()).hexdigest(), path=str(path)))
    return refs


def test_qr_codes_are_rendered_once(tmp_path: Path) -> None:
    refs, progress = url_refs(5), Recorder()
    pixels = prepare_images(refs, 64, tmp_path, progress).open()[:]
    assert pixels.shape == (5, 1, 64, 64)
    for row, ref in zip(pixels, refs, strict=True):
        assert ref.url is not None
        assert np.array_equal(row[0], render_qr(ref.url, 64))
    again = prepare_images(refs, 64, tmp_path, progress).open()[:]
    assert np.array_equal(again, pixels)
    assert progress.titles == ["Rendering QR codes"]


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_gray_images_are_stored_with_one_channel(tmp_path: Path, mode: str) -> None:
    refs, grays = [], []
    for index in range(70):
        gray = np.random.default_rng(index).integers(0, 256, (16, 16), dtype=np.uint8)
        path = tmp_path / f"{index}.png"
        Image.fromarray(gray).convert(mode).save(path)
        refs.append(ImageRef(hashlib.sha256(path.read_bytes()).hexdigest(), path=str(path)))
        grays.append(decode_image(path.read_bytes(), 16)[..., 0])
    cache = tmp_path / "cache"
    pixels = prepare_images(refs, 16, cache, Silent()).open()[:]
    assert np.array_equal(pixels, np.array(grays)[:, None])
    assert next(cache.glob("images-*.u8")).stat().st_size == size_with_checksums(70, 16 * 16)
    found = cached_images(refs, 16, cache, Silent())
    assert found is not None
    assert found.shape == (70, 1, 16, 16)


def test_all_images_are_stored_in_color_if_one_has_colors(tmp_path: Path) -> None:
    refs = file_refs(tmp_path, 3)  # the first of them is black
    pixels = prepare_images(refs, 16, tmp_path / "cache", Silent()).open()[:]
    assert pixels.shape == (3, 3, 16, 16)
    assert pixels[2, :, 0, 0].tolist() == [2, 0, 0]


def test_gray_images_are_stored_with_one_channel_without_the_bad_ones(tmp_path: Path) -> None:
    refs = []
    for index in range(3):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (20, 10), (index, index, index)).save(path)
        if index == 1:
            path.write_bytes(b"no picture")
        refs.append(ImageRef(hashlib.sha256(path.read_bytes()).hexdigest(), path=str(path)))
    for _ in range(2):  # the second time from the record
        prepared = prepare_images(refs, 16, tmp_path / "cache", Silent())
        assert list(prepared.problems) == [1]
        assert prepared.open()[:][:, :, 0, 0].tolist() == [[0], [2]]


def test_worker_processes_give_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = url_refs(130)
    alone = prepare_images(refs, 32, tmp_path / "one", Silent()).open()[:]
    monkeypatch.setattr(image_cache, "ROWS_WORTH_PROCESSES", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    together = prepare_images(refs, 32, tmp_path / "two", Silent()).open()[:]
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("processors", [1, 2])
def test_even_a_single_image_is_decoded_in_another_process(
    processors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(image_cache, "prepare_rows", lambda *_: pytest.fail("it is decoded in this one"))
    assert prepare_images(file_refs(tmp_path, 1), 8, tmp_path / "cache", Silent()).problems == {}


def test_unreadable_images_are_named_and_left_out(tmp_path: Path) -> None:
    refs = file_refs(tmp_path, 6)
    for position in (0, 3):
        data = b"\x89PNG broken"
        path = Path(str(refs[position].path))
        path.write_bytes(data)
        refs[position] = ImageRef(hashlib.sha256(data).hexdigest(), path=str(path))
    prepared = prepare_images(refs, 32, tmp_path / "cache", Silent())
    assert sorted(prepared.problems) == [0, 3]
    good = [refs[position] for position in (1, 2, 4, 5)]
    for row, ref in zip(prepared.open()[:], good, strict=True):
        expected = decode_image(Path(str(ref.path)).read_bytes(), 32).transpose(2, 0, 1)
        assert np.array_equal(row, expected)
    assert cached_images(good, 32, tmp_path / "cache", Silent()) is not None


def test_no_cache_is_written_if_no_image_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    ref = ImageRef(hashlib.sha256(b"").hexdigest(), path=str(path))
    assert sorted(prepare_images([ref], 32, tmp_path / "cache", Silent()).problems) == [0]
    assert not list((tmp_path / "cache").glob("*.u8"))


def test_a_file_that_changed_after_hashing_is_a_problem(tmp_path: Path) -> None:
    refs = file_refs(tmp_path, 2)
    Image.new("RGB", (20, 10), (99, 99, 99)).save(tmp_path / "1.png")
    assert "changed" in prepare_images(refs, 32, tmp_path / "cache", Silent()).problems[1]


def test_other_content_size_or_order_is_another_cache(tmp_path: Path) -> None:
    refs = url_refs(3)
    paths = {
        prepare_images(r, size, tmp_path, Silent()).path
        for r, size in ((refs, 32), (refs, 64), (refs[::-1], 32), (refs[:2], 32))
    }
    assert len(paths) == 4


def test_a_truncated_cache_is_made_again(tmp_path: Path) -> None:
    refs = url_refs(3)
    first = prepare_images(refs, 32, tmp_path, Silent())
    expected = first.open()[:]
    os.truncate(first.path, 100)
    assert np.array_equal(prepare_images(refs, 32, tmp_path, Silent()).open(), expected)


@pytest.mark.parametrize("place", [-1, -20, -23, "all"])
def test_a_cache_whose_checksums_are_damaged_is_made_again(tmp_path: Path, place: int | str) -> None:
    refs, progress = url_refs(3), Recorder()
    first = prepare_images(refs, 64, tmp_path, progress)
    expected, data = first.open()[:], bytearray(first.path.read_bytes())
    if isinstance(place, int):
        data[place] ^= 1
    else:
        data[:] = bytes(len(data))
    first.path.write_bytes(data)
    assert np.array_equal(prepare_images(refs, 64, tmp_path, progress).open(), expected)
    assert len(progress.titles) == 3
    assert "is damaged; preparing the images again" in progress.titles[1]
    assert cached_images(refs, 64, tmp_path, Silent()) is not None


@pytest.mark.parametrize("place", [0, 5000])
def test_damaged_pixels_are_prepared_again_when_they_are_read(tmp_path: Path, place: int) -> None:
    refs = url_refs(3)
    prepared = prepare_images(refs, 64, tmp_path, Silent())
    expected, data = prepared.open()[:], bytearray(prepared.path.read_bytes())
    data[place] ^= 1
    prepared.path.write_bytes(data)
    again = prepare_images(refs, 64, tmp_path, Silent())
    assert np.array_equal(again.open(), expected)


def test_damaged_pixels_are_never_used_even_without_the_images(tmp_path: Path) -> None:
    refs, cache = file_refs(tmp_path, 3), tmp_path / "cache"
    first = prepare_images(refs, 32, cache, Silent())
    data = bytearray(first.path.read_bytes())
    data[7] ^= 255
    first.path.write_bytes(data)
    for ref in refs:
        Path(str(ref.path)).unlink()
    pixels = prepare_images(refs, 32, cache, Silent()).open()
    assert len(pixels[1:]) == 2
    with pytest.raises(DataError, match=r"0\.png: no such file"):
        pixels[0]


def test_pixels_are_read_even_after_their_file_was_removed_or_truncated(tmp_path: Path) -> None:
    prepared = prepare_images(url_refs(3), 32, tmp_path, Silent())
    pixels = prepared.open()
    expected = pixels[:]
    os.truncate(prepared.path, 100)
    prepared.path.unlink()
    assert np.array_equal(pixels, expected)


def test_the_pixels_of_other_images_under_the_name_of_a_cache_are_never_used(tmp_path: Path) -> None:
    refs = url_refs(4)
    first, second = (prepare_images(part, 64, tmp_path, Silent()) for part in (refs[:2], refs[2:]))
    expected = first.open()[:]
    second.path.replace(first.path)
    assert np.array_equal(prepare_images(refs[:2], 64, tmp_path, Silent()).open(), expected)


def test_concurrent_runs_share_the_work(tmp_path: Path) -> None:
    refs, progress = url_refs(40), Recorder()
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(prepare_images(refs, 32, tmp_path, progress).open()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.titles == ["Rendering QR codes"]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_nothing_is_left_next_to_the_cache(tmp_path: Path) -> None:
    prepared = prepare_images(url_refs(3), 32, tmp_path, Silent())
    assert kept(tmp_path) == [prepared.path]


def test_pixels_above_the_limit_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs, progress, cache = with_a_bad_one(tmp_path), Recorder(), tmp_path / "cache"
    kept = prepare_images(refs, 32, tmp_path / "large", Silent())
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", 1000)
    first = prepare_images(refs, 32, cache, progress)
    assert first.problems == kept.problems
    assert not list(cache.glob("*.u8"))
    assert np.array_equal(first.open()[:], kept.open()[:])
    assert prepare_images(refs, 32, cache, progress).problems == first.problems
    prepare_images([*refs, *file_refs(tmp_path / "more", 2)], 32, cache, progress)
    assert progress.totals == [4, 2]  # only new images are checked


def test_a_disk_without_room_for_the_pixels_does_not_keep_a_run_from_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: Usage)
    refs = url_refs(3)
    pixels = prepare_images(refs, 64, tmp_path, Silent()).open()
    assert np.array_equal(pixels[1][0], render_qr(str(refs[1].url), 64))


def test_batches_of_gray_images_that_are_not_kept_have_one_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbbd_cli.data.cache.LIMIT_BYTES", 1000)
    refs = file_refs(tmp_path, 2)  # the first is black
    pixels = prepare_images(refs, 32, tmp_path / "cache", Silent()).open()
    assert pixels[[0, 0]].shape == (2, 1, 32, 32)
    assert pixels[[0, 1]].shape == (2, 3, 32, 32)


def with_a_bad_one(folder: Path) -> list[ImageRef]:
    refs = file_refs(folder, 4)
    Path(str(refs[1].path)).write_bytes(b"text")
    refs[1] = ImageRef(hashlib.sha256(b"text").hexdigest(), path=refs[1].path)
    return refs


def test_images_with_bad_content_are_recorded(tmp_path: Path) -> None:
    refs, progress, cache = with_a_bad_one(tmp_path), Recorder(), tmp_path / "cache"
    first = prepare_images(refs, 32, cache, progress)
    again = prepare_images(refs, 32, cache, progress)
    assert progress.titles == ["Decoding images"]
    assert again == first
    assert again.problems == {1: "not an image, damaged, or in an unsupported format"}
    assert again.open().shape == (3, 3, 32, 32)
    assert cached_images(refs, 32, cache, Silent()) is None  # it promises a row for every image


def test_images_that_could_not_be_opened_are_tried_again(tmp_path: Path) -> None:
    refs, progress = with_a_bad_one(tmp_path), Recorder()
    path = Path(str(refs[2].path))
    data = path.read_bytes()
    path.unlink()
    assert sorted(prepare_images(refs, 32, tmp_path / "cache", progress).problems) == [1, 2]
    path.write_bytes(data)
    assert sorted(prepare_images(refs, 32, tmp_path / "cache", progress).problems) == [1]
    assert len(progress.titles) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        "{}",
        '{"readers": "P", "problems": []}',
        '{"readers": "P", "problems": {"1": "", "9": ""}}',
        "another Pillow",
    ],
)
def test_a_record_that_is_damaged_or_of_another_pillow_is_not_used(tmp_path: Path, damage: str) -> None:
    refs, progress = with_a_bad_one(tmp_path), Recorder()
    first = prepare_images(refs, 32, tmp_path / "cache", progress)
    [record] = (tmp_path / "cache").glob("*.json")
    known = json.loads(record.read_text())
    if damage == "another Pillow":
        damage = json.dumps({**known, "readers": "0.1"})
    record.write_text(damage.replace('"P"', json.dumps(known["readers"])))
    assert prepare_images(refs, 32, tmp_path / "cache", progress) == first
    assert len(progress.titles) == 2


def test_a_url_with_the_hash_of_another_is_not_kept(tmp_path: Path) -> None:
    refs = url_refs(3)
    wrong = [refs[0], ImageRef(refs[1].sha256, url="evil.example"), refs[2]]
    assert "another URL" in prepare_images(wrong, 32, tmp_path, Silent()).problems[1]
    assert cached_images(refs, 32, tmp_path, Silent()) is None


def test_files_are_hashed_and_missing_ones_reported(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    hashes = hash_files([str(tmp_path / "a"), str(tmp_path / "b")], Silent())
    assert hashes[0] == hashlib.sha256(b"content").hexdigest()
    assert isinstance(hashes[1], FileNotFoundError)


def test_a_file_that_is_too_large_for_an_image_is_not_hashed(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(10**12)
    (found,) = hash_files([str(tmp_path / "a")], Silent())
    assert isinstance(found, OSError)
    assert found.strerror == "it has 1,000,000,000,000 bytes (limit 268,435,456)"
