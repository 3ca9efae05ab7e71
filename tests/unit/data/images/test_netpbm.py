"""NetPBM images of every kind are read exactly, and damaged ones give an error that says why."""

import io

import numpy as np
import pytest
from PIL import Image

from dbbd_cli.data.images.decode import decode_image
from dbbd_cli.data.images.formats import ImageFileError
from dbbd_cli.data.images.netpbm import read_netpbm


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P1\n# a comment 7 8\n3 2\n1 0 1\n011", [[0, 255, 0], [255, 0, 0]]),
        (b"P4 3 2\n\xa0\x60", [[0, 255, 0], [255, 0, 0]]),
        (b"P2 2 1 255 7 200 this is never looked at", [[7, 200]]),
        (b"P2\r\n2 1\r\n100\r\n50#1 2 3\r\n100", [[128, 255]]),
        (b"P2 2 1 65535 32768 65535", [[128, 255]]),
        (b"P5 2 1 255\n\x07\xc8", [[7, 200]]),
        (b"P5 2 1 15\n\x00\x0f", [[0, 255]]),
        (b"P5 2 1 65535\n\x80\x00\xff\xff", [[128, 255]]),
        (b"P5 2 1 4095\n\x08\x00\x0f\xff", [[128, 255]]),
        (b"P3 1 2 255\n1 2 3 4 5 6", [[[1, 2, 3]], [[4, 5, 6]]]),
        (b"P6 1 1 65535\n\x80\0\0\0\xff\xff", [[[128, 0, 255]]]),
    ],
)
def test_every_kind(data, expected):
    pixels = read_netpbm(data)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_files_of_pillow(mode):
    image = Image.effect_noise((31, 17), 90).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PPM")
    expected = np.asarray(image.convert("L") if mode == "1" else image)
    np.testing.assert_array_equal(read_netpbm(buffer.getvalue()), expected)


@pytest.mark.parametrize("comments", [False, True])
def test_a_text_of_many_blocks(monkeypatch, comments):
    monkeypatch.setattr("dbbd_cli.data.images.netpbm._BLOCK_BYTES", 5)
    values = np.random.default_rng(0).integers(0, 256, (9, 11))
    text = "".join(f"{value}{'#12 3' if comments and value % 3 else ''}\n" for value in values.ravel())
    assert read_netpbm(b"P2 11 9 255\n" + text.encode()).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P2 ", "truncated"),
        (b"P3 1 1 255 1 2", "truncated"),
        (b"P1 2 1 1", "truncated"),
        (b"P4 9 1\n\0", "truncated"),
        (b"P6 1 1 255\naa", "truncated"),
        (b"P5 1 1 65535\na", "truncated"),
        (b"P5 a 1 255\na", "damaged: width, height or maximum in its header"),
        (b"P5 -1 1 255\na", "damaged: width, height or maximum in its header"),
        (b"P5 0 1 255\n", "damaged: its width, height or maximum"),
        (b"P2 1 1 65536 3", "damaged: its width, height or maximum"),
        (b"P2 1 1 255 1.5", "damaged: it contains text that is not a number"),
        (b"P2 1 1 255 x", "damaged: it contains text that is not a number"),
        (b"P2 1 1 255 -3", "damaged: it contains text that is not a number"),
        (b"P2 1 1 255 " + b"9" * 40, "damaged: it has values outside the range from 0 to its maximum, 255"),
        (b"P5 1 1 100\n\xff", "damaged: it has values outside the range from 0 to its maximum, 100"),
        (b"P1 1 1 5", "damaged: it has values outside the range from 0 to its maximum, 1"),
        (b"P5 99999 99999 255\n", "too large: 99999 x 99999 pixels"),
        (b"P6 9000 9000 65535\n", "too large: 9000 x 9000 pixels of this kind"),
        (b"P5 200000 1 255\n", r"too large: 200000 x 1 pixels \(limit 100,000 on a side\)"),
    ],
)
def test_errors_say_what_is_wrong(data, reason):
    with pytest.raises(ImageFileError, match=reason):
        decode_image(data, ".ppm", 8)


def test_comments_end():
    for kind in (b"P2", b"P2 9 9 255\n"):
        with pytest.raises(ImageFileError, match="truncated"):
            read_netpbm(kind + b"#\n" * 1_000_000)
