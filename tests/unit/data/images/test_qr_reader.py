"""Codes are read whatever their angle, color, size, noise and encoding, and nothing is read where there is no code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import segno
import zxingcpp
from PIL import Image
from segno import helpers

from dbbd_cli.data.images.corruptions import Corrupted, corrupt
from dbbd_cli.data.images.qr_code import render_modules
from dbbd_cli.data.images.qr_reader import NOTHING_FOUND, Picture, find_codes, read_picture

URL = "bluepeak.example/news/2024/winter-market"


def image_of(code: segno.QRCode, pixels_per_module: int = 4, border: int = 4) -> np.ndarray:
    dark = np.array([list(row) for row in code.matrix_iter(scale=pixels_per_module, border=border)], dtype=bool)
    return np.where(dark, 0, 255).astype(np.uint8)


LONG_URL = f"{URL}?{'&'.join(f'item{number}={number**2}' for number in range(16))}"


def harmed(*harms: tuple[str, float], url: str = URL) -> np.ndarray:
    pixels = render_modules(url, 4)
    for name, strength in harms:
        pixels = corrupt(pixels, Corrupted(name, strength, 0, 3))
    return pixels


@pytest.mark.parametrize(
    "pixels",
    [
        render_modules(URL, 4),
        render_modules(URL, 1),
        255 - render_modules(URL, 4),
        render_modules(URL, 4)[::-1, ::-1],
        render_modules(URL, 4).T,
        render_modules(URL, 4)[:, ::-1],
        render_modules(URL, 4)[16:-16, 16:-16],  # without its margin
        np.pad(render_modules(URL, 4), 900, constant_values=255),
        render_modules(URL, 40),
        harmed(("rotation", 37)),
        harmed(("blur", 1)),
        harmed(("noise", 80)),
        harmed(("low contrast", 5)),
        harmed(("rotation", 20), ("blur", 0.5), ("noise", 30)),
    ],
    ids=["plain", "tiny", "inverted", "upside-down", "transposed", "mirrored", "no-margin", "small-in-large", "huge",
         "rotated", "blurred", "noisy", "faint", "all"],
)  # fmt: skip
def test_a_code_is_read(pixels: np.ndarray) -> None:
    assert find_codes(pixels) == ([URL], "")


def test_a_long_url_is_read_rotated_blurred_and_noisy() -> None:
    pixels = harmed(("rotation", 20), ("blur", 0.5), ("noise", 40), url=LONG_URL)
    assert find_codes(pixels) == ([LONG_URL], "")


@pytest.mark.parametrize("inverted", [False, True])
def test_a_micro_code_is_read(inverted: bool) -> None:
    pixels = image_of(segno.make("EX.CO/A", micro=True))
    assert find_codes(255 - pixels if inverted else pixels) == (["EX.CO/A"], "")


def test_a_blurred_code_is_not_read_as_a_micro_code_without_error_correction() -> None:
    url = "innovations.harvard.edu/news/1980535.html"
    pixels = corrupt(render_modules(url, 4), Corrupted("blur", 1.5, 0, 0))
    assert find_codes(pixels) == ([url], "")
    assert find_codes(image_of(segno.make("12345", version="M1"))) == ([], "")


def test_a_rectangular_micro_code_is_read() -> None:
    code = zxingcpp.create_barcode("https://a.example/1", zxingcpp.BarcodeFormat.RMQRCode)
    assert find_codes(np.asarray(code.to_image(scale=4, add_quiet_zones=True))) == (["https://a.example/1"], "")


def test_all_codes_of_a_picture_are_read_and_equal_ones_once() -> None:
    one, other = (render_modules(f"{name}.example/1", 4) for name in ("a", "b"))
    texts, doubt = find_codes(np.concatenate([one, other, one], axis=1))
    assert (sorted(texts), doubt) == (["a.example/1", "b.example/1"], "")


@pytest.mark.parametrize(
    "code",
    [
        helpers.make_wifi(ssid="net", password="secret", security="WPA"),
        helpers.make_vcard(name="Doe;Jane", displayname="Jane Doe"),
    ],
)
def test_other_texts_are_read_as_they_are(code: segno.QRCode) -> None:
    [text] = find_codes(image_of(code))[0]
    assert text.startswith(("WIFI:", "BEGIN:VCARD"))


@pytest.mark.parametrize(
    ("text", "encoding", "declared"),
    [
        ("a.example/ä", "utf-8", False),
        ("a.example/ä", "latin1", True),
        ("a.example/Ã¤", "latin1", True),  # its bytes are valid UTF-8 too
        ("http://a.example/1", "utf-16be", True),
        ("пример.example", "cp1251", True),
    ],
)
def test_utf8_and_declared_encodings_are_read_without_doubt(text: str, encoding: str, declared: bool) -> None:
    code = segno.make(text, micro=False, mode="byte", encoding=encoding, eci=declared)
    assert find_codes(image_of(code)) == ([text], "")


@pytest.mark.parametrize(
    ("text", "how"), [("http://münchen.example/ä", {"mode": "byte", "encoding": "latin1"}), ("漢字", {"mode": "kanji"})]
)
def test_the_text_of_a_code_whose_encoding_is_unknown_is_doubtful(text: str, how: dict[str, str]) -> None:
    doubt = "its text may be wrong: its bytes are not UTF-8, and no other encoding is known"
    assert find_codes(image_of(segno.make(text, micro=False, **how))) == ([text], doubt)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (300, 200)])
def test_nothing_is_found_where_there_is_no_code(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for pixels in (random, np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        assert find_codes(pixels) == ([], "")


@pytest.mark.parametrize("strength", [2, 2.5])
def test_micro_codes_are_not_read_from_sharpened_pictures(strength: float) -> None:
    """Noise that was sharpened can look like one: a real URL, blurred, was once read as the Micro QR code 3394."""
    pixels = image_of(segno.make("EX.CO/A", micro=True))
    assert find_codes(corrupt(pixels, Corrupted("blur", 1, 0, 0))) == (["EX.CO/A"], "")
    assert find_codes(corrupt(pixels, Corrupted("blur", strength, 0, 0))) == ([], "")


def test_a_url_is_rendered_and_harmed_before_it_is_read() -> None:
    assert read_picture(Picture(url=URL)) == ([URL], "")
    assert read_picture(Picture(url=URL, corruption=("blur", 20, 0, 0))) == ([], NOTHING_FOUND)
    texts, problem = read_picture(Picture(url="a" * 5000))
    assert texts == []
    assert "too long" in problem


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".png"])
def test_where_nothing_is_found_further_frames_are_mentioned(tmp_path: Path, suffix: str) -> None:
    empty, code = Image.new("L", (200, 200), "white"), Image.fromarray(render_modules("a.example/1", 4))
    path = tmp_path / f"frames{suffix}"
    empty.save(path, save_all=True, append_images=[code.resize(empty.size)])
    assert read_picture(Picture(str(path))) == ([], f"{NOTHING_FOUND}, whose first frame or page alone was read")
    empty.save(path)
    assert read_picture(Picture(str(path))) == ([], NOTHING_FOUND)
    code.save(path, save_all=True, append_images=[empty.resize(code.size)])
    assert read_picture(Picture(str(path))) == (["a.example/1"], "")
