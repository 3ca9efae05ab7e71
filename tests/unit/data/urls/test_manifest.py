"""A manifest from pictures of codes holds what was read, and lists the pictures that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from segno import helpers

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.candidates import Sampling
from dbbd_cli.data.images.qr_code import render_modules
from dbbd_cli.data.images.sources import list_folder
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.urls.cleaning import UrlCleaning, clean_url, url_sha256
from dbbd_cli.data.urls.manifest import make_manifest

CLEANING = UrlCleaning(scheme="strip", www="strip")


def manifest_of(root: Path, **changes: Any) -> Manifest:
    sampling = Sampling(
        per_class=None, report_limit=False, shares=(0.6, 0.2, 0.2), group_by_host=True, on_error="fail", seed=1
    )
    return make_manifest(list_folder(root), cleaning=CLEANING, sampling=replace(sampling, **changes), progress=Silent())


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """Pictures of 12 URLs on 6 hosts in each of two classes."""
    root = tmp_path / "codes"
    for name in ("bad", "good"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            url = f"http://{name}{number % 6}.example/{number}"
            Image.fromarray(render_modules(url, 3)).save(root / name / f"{number:02}.png")
    return root


def test_the_texts_that_were_read_are_stored_and_group_the_pictures(codes: Path, tmp_path: Path) -> None:
    manifest = manifest_of(codes)
    assert [sample.key for sample in manifest.samples[:2]] == ["bad/00.png", "bad/01.png"]
    for sample in manifest.samples:
        name, number = sample.key.split("/")[0], int(sample.key[-6:-4])
        assert sample.text == f"http://{name}{number % 6}.example/{number}"
        assert sample.sha256 == url_sha256(clean_url(sample.text, CLEANING))
    split = {sample.key: sample.split for sample in manifest.samples}
    for name in ("bad", "good"):
        for number in range(6):
            assert split[f"{name}/{number:02}.png"] == split[f"{name}/{number + 6:02}.png"], "a host is in two splits"
    (tmp_path / "splits.json").write_text(manifest.to_json())
    assert Manifest.load(tmp_path / "splits.json") == manifest


def test_pictures_without_exactly_one_url_are_listed_or_end_the_run(codes: Path) -> None:
    helpers.make_wifi(ssid="net", password="secret", security="WPA").save(str(codes / "bad" / "wifi.png"), scale=4)
    Image.new("L", (90, 60), 255).save(codes / "good" / "blank.png")
    (codes / "good" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    expected = {
        "wifi.png": "its code does not hold a URL, but the settings of a Wi-Fi network",
        "blank.png": "no QR code was found in it",
        "broken.png": "not an image, damaged, or in an unsupported format",
    }
    with pytest.raises(DataError, match="3 pictures cannot be used") as caught:
        manifest_of(codes)
    assert {Path(line.split(": ")[0]).name: line.split(": ", 1)[1] for line in caught.value.details} == expected
    manifest = manifest_of(codes, on_error="skip")
    assert len(manifest.samples) == 24
    assert len(manifest.skipped) == 3
