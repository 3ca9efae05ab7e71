"""HEIC and AVIF files of real encoders, and boxes put together by hand that would keep a decoder busy."""

import contextlib
import io
import struct

import pytest
from PIL import Image

from dbbd_cli.data.images import heif_boxes
from dbbd_cli.data.images.decode import ImageFileError, decode_image
from dbbd_cli.data.images.formats import can_read
from dbbd_cli.data.images.heif_boxes import decoded_pixels

AVIF = pytest.param("AVIF", marks=pytest.mark.skipif(not can_read("AVIF"), reason="this Pillow cannot read AVIF"))
HEIC = pytest.param("HEIF", marks=pytest.mark.skipif(not can_read("HEIC"), reason="pillow-heif is not installed"))


def encoded(name, image=None, **options):
    buffer = io.BytesIO()
    (image or Image.new("RGB", (200, 100), "red")).save(buffer, name, **options)
    return buffer.getvalue()


def box(kind, *content):
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full(kind, *content, version=0, flags=0):
    return box(kind, bytes([version]) + flags.to_bytes(3, "big"), *content)


def size(width, height):
    return full(b"ispe", struct.pack(">II", width, height))


def meta(*boxes, main=1):
    return full(b"meta", full(b"pitm", struct.pack(">H", main)), *boxes)


def properties(sizes, of):
    """The sizes, and the number of its size for each item."""
    entries = b"".join(struct.pack(">HBB", item, 1, index) for item, index in of.items())
    return box(b"iprp", box(b"ipco", *sizes), full(b"ipma", struct.pack(">I", len(of)), entries))


def references(kind, source, targets):
    return box(kind, struct.pack(f">HH{len(targets)}H", source, len(targets), *targets))


@pytest.mark.parametrize("name", [HEIC, AVIF])
def test_files_of_encoders(name):
    assert decoded_pixels(encoded(name)) == 200 * 100
    transparent = Image.new("RGBA", (200, 100), (255, 0, 0, 9))
    assert decoded_pixels(encoded(name, transparent)) == 2 * 200 * 100


@pytest.mark.parametrize("name", [AVIF])
def test_the_frames_of_an_animation(name):
    other = Image.new("RGB", (200, 100), "blue")
    data = encoded(name, save_all=True, append_images=[other, other])
    assert decoded_pixels(data) == 2 * 200 * 100  # as a picture, and as the first frame of the track


@pytest.mark.parametrize("name", [HEIC])
def test_tiles_count_in_addition_to_the_image(name, monkeypatch):
    import pillow_heif

    if not hasattr(pillow_heif.options, "GRID_TILE_SIZE"):
        pytest.skip("this pillow-heif writes no tiles")
    monkeypatch.setattr(pillow_heif.options, "GRID_TILE_SIZE", 512)
    data = encoded(name, Image.new("RGB", (1024, 1024)))
    assert b"grid" in data
    assert decoded_pixels(data) == 2 * 1024 * 1024
    assert decode_image(data, ".heic", 8).shape == (8, 8, 3)


@pytest.mark.parametrize("name", [HEIC])
def test_hevc_data_larger_than_the_declared_size_are_not_decoded(name):
    data = bytearray(encoded(name, Image.new("L", (5000, 4000))))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", 64, 64)
    with pytest.raises(ImageFileError, match="damaged, incomplete or of an unsupported kind"):
        decode_image(bytes(data), ".heic", 8)


@pytest.mark.skipif(not can_read("HEIC"), reason="pillow-heif is not installed")
@pytest.mark.parametrize("version", ["1.19.8", "1.22", "1", ""])
def test_a_libheif_that_decodes_more_than_a_file_declares_is_not_used(monkeypatch, version):
    import pillow_heif

    monkeypatch.setattr(pillow_heif, "libheif_version", lambda: version)
    assert not can_read.__wrapped__("HEIC")


@pytest.mark.parametrize("name", [AVIF])
def test_av1_data_larger_than_the_declared_size_are_not_decoded(name):
    """Pillow's decoder would use 540 MB for the 3.5 kB of an image of 16,000 x 16,000 pixels."""
    data = bytearray(encoded(name, Image.new("L", (5000, 4000)), speed=10))
    place = data.index(b"ispe") + 8
    data[place : place + 8] = struct.pack(">II", 64, 64)
    with pytest.raises(ImageFileError, match="its parts have 20,000,000 pixels, far more than its size justifies"):
        decode_image(bytes(data), ".avif", 8)


def test_a_grid_counts_each_tile_as_often_as_it_is_used():
    grid = properties([size(64, 64), size(512, 512)], {1: 1, 2: 2})
    tiles = full(b"iref", references(b"dimg", 1, [2] * 1000))
    assert decoded_pixels(meta(grid, tiles)) == 64 * 64 + 1000 * 512 * 512


def test_nested_images_are_counted_quickly_however_often_they_are_used():
    grid = properties([size(64, 64)], dict.fromkeys(range(1, 12), 1))
    tiles = full(b"iref", *(references(b"dimg", item, [item + 1] * 100) for item in range(1, 11)))
    assert decoded_pixels(meta(grid, tiles)) == 64 * 64 * sum(100**level for level in range(11))


def test_an_image_made_of_itself_is_refused():
    grid = properties([size(64, 64)], {1: 1, 2: 1})
    tiles = full(b"iref", references(b"dimg", 1, [2]), references(b"dimg", 2, [1]))
    with pytest.raises(ImageFileError, match="contains itself"):
        decoded_pixels(meta(grid, tiles))


@pytest.mark.parametrize(
    "pieces",
    [
        box(b"iprp", box(b"ipco", *[size(1, 1)] * 30_000)),
        box(b"iprp", full(b"ipma", struct.pack(">I", 1 << 30), bytes(1 << 20))),
        full(b"iref", *[references(b"dimg", 1, [1] * 20_000)] * 2),
        full(b"iloc", b"\x44\0", struct.pack(">H", 40_000), bytes(1 << 20)),
        box(b"free") * 30_000,
    ],
)
def test_too_many_pieces_are_refused(pieces):
    with pytest.raises(ImageFileError, match="consists of more than 20,000 pieces"):
        decoded_pixels(meta(pieces))


def test_items_that_lie_over_each_other_are_refused():
    extents = b"".join(struct.pack(">II", 0, 1 << 20) for _ in range(9))
    data = meta(full(b"iloc", b"\x44\0", struct.pack(">HHHH", 1, 1, 0, 9), extents)) + bytes(1 << 20)
    with pytest.raises(ImageFileError, match="overlapping items"):
        decoded_pixels(data)


@pytest.mark.parametrize("name", [HEIC, AVIF])
def test_damage_gives_a_number_or_an_error(name):
    data = encoded(name)
    for place in range(data.index(b"mdat")):
        damaged = [data[:place] + bytes([value]) + data[place + 1 :] for value in (0, 1, 255)]
        for content in (*damaged, data[:place]):
            with contextlib.suppress(ImageFileError):
                assert decoded_pixels(content) >= 0


def test_sequence_headers_of_every_form():
    reduced = 0b000_1_1_00000_1001_1001 << 20 | 999 << 10 | 499  # 10 bits each for width and height
    assert heif_boxes._largest_frame((reduced << 2).to_bytes(5, "big")) == 1000 * 500
    fields = [(0, 3), (0, 1), (0, 1)]  # profile, still picture, reduced
    fields += [(1, 1), (1, 32), (1, 32), (1, 1), (1, 1), (1, 1), (9, 5), (1, 32), (0, 5), (0, 5)]  # timing and model
    fields += [(1, 1), (1, 5)]  # display delay, two operating points
    fields += [(0, 12), (8, 5), (1, 1), (1, 1), (7, 10), (7, 10), (0, 1), (1, 1), (3, 4)]
    fields += [(0, 12), (7, 5), (0, 1), (0, 1)]
    fields += [(11, 4), (10, 4), (3999, 12), (1999, 11)]
    value = bits = 0
    for number, width in fields:
        value, bits = value << width | number, bits + width
    assert heif_boxes._largest_frame((value << -bits % 8).to_bytes(-(-bits // 8), "big")) == 4000 * 2000
    assert heif_boxes._largest_frame(b"") >= 1
