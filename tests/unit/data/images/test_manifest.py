"""Manifests keep equal content in one split, report unusable images, and give the right pixels to each sample."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.candidates import Sampling
from dbbd_cli.data.images.manifest import make_manifest, prepare_manifest
from dbbd_cli.data.images.qr_code import render_qr
from dbbd_cli.data.images.sources import list_folder
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.urls.cleaning import UrlCleaning, host_of, url_sha256
from dbbd_cli.data.urls.sources import list_synthetic, list_urls


class Messages(Silent):
    def __init__(self) -> None:
        self.text: list[str] = []

    def line(self, text: str) -> None:
        self.text.append(text)

    def warn(self, text: str) -> None:
        self.text.append("warning: " + text)


def manifest_of(source: Any, cache: Path, progress: Silent | None = None, **changes: Any) -> Manifest:
    settings = {"cleaning": UrlCleaning(), "image_size": 32, "cache_dir": cache}
    sampling = Sampling(
        per_class=None, report_limit=True, shares=(0.7, 0.15, 0.15), group_by_host=False, on_error="fail", seed=1
    )
    settings |= {name: changes.pop(name) for name in settings if name in changes}
    return make_manifest(source, **settings, sampling=replace(sampling, **changes), progress=progress or Silent())


def test_equal_content_goes_into_the_same_split_and_is_reported(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = picture_folder(("cat", "dog"), count=20)
    for copy in range(5):
        shutil.copy(root / "cat" / "3.png", root / "cat" / f"copy{copy}.png")
    shutil.copy(root / "cat" / "7.png", root / "dog" / "same.png")
    messages = Messages()
    manifest = manifest_of(list_folder(root), tmp_path / "cache", messages)
    split = {sample.key: sample.split for sample in manifest.samples}
    assert len({split["cat/3.png"], *(split[f"cat/copy{copy}.png"] for copy in range(5))}) == 1
    assert split["cat/7.png"] == split["dog/same.png"]
    text = "\n".join(messages.text)
    assert "1 image occurs in more than one class" in text
    assert "cat/7.png (cat)" in text
    assert "6 images are duplicates" in text


def test_unreadable_images_end_the_run_with_their_paths(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder(("cat", "dog"))
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "dog" / "cut.png").write_bytes((root / "dog" / "1.png").read_bytes()[:60])
    (root / "dog" / "text.jpg").write_text("text")
    with pytest.raises(DataError) as caught:
        manifest_of(list_folder(root), tmp_path / "cache")
    listed = "\n".join(caught.value.details)
    assert len(caught.value.details) == 3
    for name in ("empty.png", "cut.png", "text.jpg"):
        assert name in listed
    assert "on_error=skip" in caught.value.hint


def test_skipped_images_are_counted_listed_and_in_no_split(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder(("cat", "dog"))
    (root / "cat" / "empty.png").write_bytes(b"")
    messages = Messages()
    manifest = manifest_of(list_folder(root), tmp_path / "cache", messages, on_error="skip")
    assert len(manifest.samples) == 16
    assert all("empty" not in sample.key for sample in manifest.samples)
    assert len(manifest.skipped) == 1
    assert "empty.png" in manifest.skipped[0]
    assert any("1 file or row was skipped" in text for text in messages.text)


def test_fewer_images_than_requested_are_reported(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    messages = Messages()
    manifest = manifest_of(list_folder(picture_folder(("cat", "dog"))), tmp_path / "cache", messages, per_class=50)
    assert len(manifest.samples) == 16
    assert "cat: 8 images, dog: 8 images (limit 50); all of them are used." in messages.text
    messages = Messages()
    manifest_of(list_folder(tmp_path / "pictures"), tmp_path / "cache", messages, per_class=50, report_limit=False)
    assert messages.text == []


def test_many_classes_with_fewer_images_than_requested_take_one_line(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    messages = Messages()
    root = picture_folder(tuple(f"c{number:02}" for number in range(10)), count=3)
    manifest_of(list_folder(root), tmp_path / "cache", messages, per_class=50)
    [line] = [text for text in messages.text if "limit" in text]
    assert line.startswith("c00: 3 images, c01: 3 images, ")
    assert line.endswith(" c07: 3 images and 2 more classes (limit 50); all of them are used.")


def test_too_small_classes_are_reported_before_any_image_is_read(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = picture_folder(("cat", "dog"), count=2)
    for path in root.glob("*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 2 classes are too small to be in the training, validation and test"):
        manifest_of(list_folder(root), tmp_path / "cache")


def test_images_in_formats_that_are_not_read_trigger_a_warning(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = picture_folder(("cat", "dog"))
    for name in ("cat/a.NEF", "cat/deep/b.nef", "dog/c.psd", "dog/notes.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"II*\0 something")
    (root / "dog" / "notes.txt").write_text("text")
    messages = Messages()
    manifest = manifest_of(list_folder(root), tmp_path / "cache", messages)
    assert len(manifest.samples) == 16
    assert messages.text == [
        "Files that are not images were ignored: 1.",
        "warning: 3 images in unsupported formats were skipped: 2 .nef, 1 .psd.",
    ]


def test_a_missing_reader_is_named_with_how_to_install_it(
    picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbbd_cli.data.images.formats.can_read", lambda name: name not in ("", "HEIF"))
    root = picture_folder(("cat", "dog"))
    (root / "cat" / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    messages = Messages()
    manifest_of(list_folder(root), tmp_path / "cache", messages)
    assert messages.text == [
        "warning: 1 image in unsupported formats was skipped: 1 .heic.",
        'warning: To read .heic: pip install "dbbd-cli[heif]"',
    ]


def test_urls_of_a_host_go_into_one_split(tmp_path: Path) -> None:
    manifest = manifest_of(list_synthetic(60, 3), tmp_path, group_by_host=True)
    splits: dict[str, set[str]] = {}
    for sample in manifest.samples:
        splits.setdefault(host_of(sample.key), set()).add(sample.split)
    assert len(splits) < 120
    assert all(len(found) == 1 for found in splits.values())


CLEANED_URLS = """url,label
http://www.a.example/x,bad
a.example/x,good
b.example,bad
https://c.example,bad
d.example,good
https://e.example,good
"""


def test_cleaned_urls_are_rendered_and_hashed_but_the_keys_stay(tmp_path: Path) -> None:
    table = tmp_path / "urls.csv"
    table.write_text(CLEANED_URLS)
    source = list_urls(table, "url", "label")
    cleaning = UrlCleaning(scheme="strip", www="strip")
    messages = Messages()
    manifest = manifest_of(source, tmp_path / "cache", messages, cleaning=cleaning)
    assert {sample.key for sample in manifest.samples} == {candidate.key for candidate in source.candidates}
    digests = {sample.key: sample.sha256 for sample in manifest.samples}
    assert digests["http://www.a.example/x"] == digests["a.example/x"] == url_sha256("a.example/x")
    assert digests["https://c.example"] == url_sha256("c.example")
    assert any("1 image occurs in more than one class" in text for text in messages.text)

    settings: dict[str, Any] = {
        "splits": ("train", "val", "test"),
        "roots": (),
        "image_size": 32,
        "cache_dir": tmp_path / "cache",
        "progress": Silent(),
    }
    prepared, samples = prepare_manifest(manifest, cleaning=cleaning, **settings)
    pixels = {sample.key: image[0] for sample, image in zip(samples, prepared.open(), strict=True)}
    for url, cleaned in {"http://www.a.example/x": "a.example/x", "https://e.example": "e.example"}.items():
        assert np.array_equal(pixels[url], render_qr(cleaned, 32))
    prepared, samples = prepare_manifest(manifest, cleaning=UrlCleaning(), **settings)
    pixels = {sample.key: image[0] for sample, image in zip(samples, prepared.open(), strict=True)}
    assert np.array_equal(pixels["https://e.example"], render_qr("https://e.example", 32))


def test_a_url_of_which_cleaning_leaves_nothing_is_reported_as_it_is_in_the_table(tmp_path: Path) -> None:
    table = tmp_path / "urls.csv"
    table.write_text(CLEANED_URLS + "https://,bad\n")
    with pytest.raises(DataError) as caught:
        manifest_of(list_urls(table, "url", "label"), tmp_path / "cache", cleaning=UrlCleaning(scheme="strip"))
    assert caught.value.details == ["https://: the text of a QR code is empty"]


def test_real_urls_are_split_as_configured(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = list_urls(shared / "data" / "qr_urls.csv", "url", "label")
    monkeypatch.setattr(
        "dbbd_cli.data.images.manifest.prepare_images",
        lambda refs, *_, **__: type("Prepared", (), {"problems": {}})(),  # 10,000 codes take half a minute to render
    )
    manifest = manifest_of(source, tmp_path, per_class=5000, seed=42)
    assert [len(manifest.of(split)) for split in ("train", "val", "test")] == [7000, 1500, 1500]
    for label in range(2):
        counts = [sum(s.label == label for s in manifest.of(split)) for split in ("train", "val", "test")]
        assert counts == [3500, 750, 750]


def test_files_that_have_changed_since_are_named(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder(("cat", "dog"))
    source = list_folder(root)
    manifest = manifest_of(source, tmp_path / "cache")
    shutil.copy(root / "cat" / "0.png", root / "cat" / "1.png")
    (root / "dog" / "2.png").unlink()
    with pytest.raises(DataError) as caught:
        prepare_manifest(
            manifest,
            splits=("train", "val", "test"),
            roots=source.roots,
            cleaning=UrlCleaning(),
            image_size=32,
            cache_dir=tmp_path / "empty cache",
            progress=Silent(),
        )
    assert len(caught.value.details) == 2


def test_files_that_remain_only_in_the_cache_are_reported(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder(("cat", "dog"))
    source = list_folder(root)
    manifest = replace(manifest_of(source, tmp_path / "cache"), is_new=False)  # as it is loaded from a run

    def messages_for(*splits: str) -> list[str]:
        messages = Messages()
        settings = {"roots": source.roots, "cleaning": UrlCleaning(), "image_size": 32, "cache_dir": tmp_path / "cache"}
        prepared, samples = prepare_manifest(manifest, splits=splits, **settings, progress=messages)
        assert len(samples) == 16
        assert prepared.shape[0] == 16
        return messages.text

    assert messages_for("train", "val", "test") == []
    first, second = manifest.of("train")[:2]
    (root / first.key).unlink()
    [line] = messages_for("train", "val")
    assert line.startswith("1 image file of 14 is missing or has changed: using the cached pixels")
    assert messages_for("test") == []
    (root / second.key).touch()  # changed in nothing but its time
    assert messages_for("train", "val") == [line]
    shutil.copy(root / manifest.of("val")[0].key, root / second.key)
    [line] = messages_for("train", "val")
    assert line.startswith("2 image files of 14 are missing or have changed:")


def test_damaged_pixels_are_prepared_again_or_rejected(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder(("cat", "dog"))
    source = list_folder(root)
    manifest = manifest_of(source, tmp_path / "cache")
    settings = {
        "splits": ("test",),
        "roots": source.roots,
        "cleaning": UrlCleaning(),
        "image_size": 32,
        "cache_dir": tmp_path / "cache",
    }
    intact, _ = prepare_manifest(manifest, **settings, progress=Silent())
    expected = {s.key: row for s, row in zip(manifest.samples, intact.open()[:], strict=True)}

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)

    damage(intact.path)
    messages = Messages()
    assert manifest_of(source, tmp_path / "cache") == manifest  # a new run meets it, too
    prepared, samples = prepare_manifest(manifest, **settings, progress=messages)
    assert messages.text == []
    for sample, row in zip(samples, prepared.open(), strict=True):
        assert np.array_equal(row, expected[sample.key])
    (root / samples[0].key).unlink()
    with pytest.raises(DataError, match=r"0\.png: no such file"):
        prepared.open()[:]


def test_only_the_files_of_the_needed_split_are_read(picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder(("cat", "dog"))
    source = list_folder(root)
    manifest = manifest_of(source, tmp_path / "cache")
    for sample in manifest.of("train"):
        (root / sample.key).unlink()
    prepared, samples = prepare_manifest(
        manifest,
        splits=("test",),
        roots=source.roots,
        cleaning=UrlCleaning(),
        image_size=32,
        cache_dir=tmp_path / "empty cache",
        progress=Silent(),
    )
    assert samples == manifest.of("test")
    assert prepared.shape[0] == len(samples)


def test_a_url_that_no_code_can_hold_is_named_in_short(tmp_path: Path) -> None:
    table = tmp_path / "urls.csv"
    rows = [f"{name}{place}.example,{name}" for name in ("good", "bad") for place in range(5)]
    table.write_text("\n".join(["url,label", "https://" + "x" * 10**5 + ",bad", *rows]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        manifest_of(list_urls(table, "url", "label"), tmp_path)
    (line,) = caught.value.details
    assert line.endswith("x…: the text is too long for a QR code: 100,008 bytes (limit 2,331)")
    assert len(line) < 300
