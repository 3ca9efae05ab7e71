"""Headers of image files are read without decoding, and copies in other sizes and formats look the same."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbbd_cli.core.progress import Silent
from dbbd_cli.data.images.properties import (
    ImageHeader,
    file_code_properties,
    pixel_properties,
    pixel_relations,
    read_header,
    similar_groups,
)
from dbbd_cli.data.images.qr_code import render_modules, render_qr
from dbbd_cli.data.images.qr_version import qr_version
from dbbd_cli.data.images.refs import ImageRef


@pytest.mark.parametrize(
    ("mode", "suffix", "bits", "format_"),
    [
        ("1", ".png", 1, "PNG"),
        ("L", ".png", 8, "PNG"),
        ("I;16", ".png", 16, "PNG"),
        ("RGB", ".jpg", 8, "JPEG"),
        ("I;16", ".tif", 16, "TIFF"),
        ("1", ".tif", 1, "TIFF"),
        ("L", ".bmp", 8, "BMP"),
    ],
)
def test_a_header(tmp_path: Path, mode: str, suffix: str, bits: int, format_: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.new(mode, (30, 20)).save(path)
    assert read_header(str(path)) == ImageHeader(30, 20, path.stat().st_size, bits, mode, format_)


def test_a_header_of_a_palette_has_the_depth_of_the_file(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8))
    palette.putpalette([0, 0, 0] * 16)
    palette.save(tmp_path / "a.png", bits=4)
    assert read_header(str(tmp_path / "a.png"))[3:] == (4, "P", "PNG")


def test_a_file_that_is_gone_or_no_image_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    for name in ("gone.png", "text.png"):
        header = read_header(str(tmp_path / name))
        assert math.isnan(header.width)
        assert header.format == "unknown"


def test_the_versions_of_codes_in_files(tmp_path: Path) -> None:
    urls = ["https://a.example/", "https://a.example/" + "x" * 60, "https://a.example/" + "x" * 200]
    for place, url in enumerate(urls):
        Image.fromarray(render_modules(url, 3)).save(tmp_path / f"{place}.png")
    noise = np.random.default_rng(0).integers(255, size=(90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    refs = [ImageRef("", path=str(tmp_path / f"{name}.png")) for name in (0, "noise", 1, 2, "gone")]
    [part] = file_code_properties(refs, Silent())
    known = [qr_version(url) for url in urls]
    assert part.name == "QR version"
    assert part.values[[0, 2, 3]].tolist() == known
    assert np.isnan(part.values[[1, 4]]).all()
    assert len(set(known)) == 3
    assert file_code_properties(refs[1:2], Silent()) == []


def test_copies_in_other_sizes_look_the_same_and_other_codes_do_not() -> None:
    codes = [render_qr(f"https://{place * 7919}.example/{place}", 256) for place in range(30)]
    copies = [np.array(Image.fromarray(code).resize((90, 90)).resize((256, 256))) for code in codes[:5]]
    images = np.stack([*codes, *copies])[:, None]
    [relation] = pixel_relations(images, range(35))
    keys = list(relation.keys)
    assert keys[30:] == keys[:5]
    assert len(set(keys)) == 30
    [colored] = pixel_relations(np.repeat(images, 3, axis=1), range(35))
    assert list(colored.keys) == keys
    [gray] = pixel_properties(images, [3])
    assert gray.values[0] == pytest.approx(images[3].mean(), abs=5)


def test_images_are_similar_if_at_most_four_bits_and_few_gray_values_differ() -> None:
    hashes = np.array([0, 0b1111, 0b11111_00000, 1 << 63, 2**64 - 1, 0b1111, 0b1111], dtype=np.uint64)
    thumbnails = np.zeros((7, 4, 4), dtype=np.int16)
    thumbnails[3] = 200
    thumbnails[5] = 7
    thumbnails[6] = 100
    groups = similar_groups(hashes, thumbnails)
    assert groups[0] == groups[1] == groups[5]
    assert groups[6] is None
    assert len({groups[0], groups[2], groups[3], groups[4]}) == 4
