"""QR codes have the modules that segno chooses, error correction M, a border, and a limit on their text."""

import numpy as np
import pytest
import segno

from dbbd_cli.data.images.qr_code import MAX_BYTES, render_qr

URLS = ["a.example", "https://shop.example/garden/1?q=2", "https://" + 100 * "long" + ".example"]


def module_grid(url):
    """The modules as the picture shows them, read from a rendering of exactly 10 pixels a module."""
    for version in range(1, 41):
        modules = 17 + 4 * version + 8
        picture = render_qr(url, 10 * modules)
        grid = picture[5::10, 5::10]
        if (grid.repeat(10, axis=0).repeat(10, axis=1) == picture).all():
            return grid
    raise AssertionError("no size at which modules are whole pixels")


@pytest.mark.parametrize("url", URLS)
def test_modules_and_border_are_those_of_the_code(url):
    expected = segno.make(url, error="m", boost_error=False, micro=False)
    dark = np.array([list(row) for row in expected.matrix], dtype=bool)
    picture = render_qr(url, 10 * (len(dark) + 8))
    assert picture.dtype == np.uint8
    assert set(np.unique(picture)) == {0, 255}
    inside = picture[40:-40, 40:-40]
    np.testing.assert_array_equal(inside == 0, dark.repeat(10, axis=0).repeat(10, axis=1))
    outside = np.ones_like(picture, dtype=bool)
    outside[40:-40, 40:-40] = False
    assert (picture[outside] == 255).all()
    assert (inside[0, :70] == 0).all(), "the corner mark touches the border"


@pytest.mark.parametrize("url", URLS[:2])
def test_error_correction_is_m(url):
    dark = module_grid(url)[4:-4, 4:-4] == 0
    positions = [(8, column) for column in (0, 1, 2, 3, 4, 5, 7, 8)] + [(row, 8) for row in (7, 5, 4, 3, 2, 1, 0)]
    bits = int("".join(str(int(dark[position])) for position in positions), 2) ^ 0x5412
    assert bits >> 13 == 0b00  # the standard's number for M


@pytest.mark.parametrize("size", [32, 224, 225])
def test_resized_picture_is_smooth_and_keeps_the_modules(size):
    picture = render_qr(URLS[0], size)
    assert picture.shape == (size, size)
    if size > 200:
        dark = module_grid(URLS[0]) == 0
        centers = ((np.arange(len(dark)) + 0.5) * size / len(dark)).astype(int)
        np.testing.assert_array_equal(picture[np.ix_(centers, centers)] < 128, dark)
    assert len(np.unique(picture)) > 2


@pytest.mark.parametrize("url", ["https://é.example", "https://日本.example", "ж" * 10, "日本語日本"])
def test_other_scripts_are_stored_as_utf8(url):
    expected = segno.make(url.encode("utf-8"), error="m", boost_error=False, micro=False, mode="byte")
    dark = np.array([list(row) for row in expected.matrix], dtype=bool)
    picture = render_qr(url, 10 * (len(dark) + 8))
    np.testing.assert_array_equal(picture[45:-40:10, 45:-40:10] == 0, dark)


def test_same_text_gives_the_same_picture():
    np.testing.assert_array_equal(render_qr(URLS[0], 64), render_qr(URLS[0], 64))
    assert (render_qr("a.example", 64) != render_qr("b.example", 64)).any()


def test_longest_text_fits_and_one_byte_more_does_not():
    assert render_qr("x" * MAX_BYTES, 64).shape == (64, 64)
    with pytest.raises(ValueError, match=r"too long for a QR code: 2,332 bytes \(limit 2,331\)"):
        render_qr("x" * (MAX_BYTES + 1), 64)
    with pytest.raises(ValueError, match="too long"):
        render_qr("ж" * 1166, 64)


def test_unusable_text_is_refused():
    with pytest.raises(ValueError, match="is empty"):
        render_qr("", 64)
    with pytest.raises(ValueError, match="not valid Unicode"):
        render_qr("a\ud800", 64)
