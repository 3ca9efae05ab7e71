"""Images of every format and mode decode to the right pixels, and damaged ones give an error that says why."""

import io
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbbd_cli.data.images import formats
from dbbd_cli.data.images.decode import MAX_PIXELS, ImageFileError, decode_gray, decode_image
from dbbd_cli.data.images.formats import FORMAT_OF_SUFFIX, can_read

SIZE = 32
FORMATS_PAGE = Path(__file__).parents[4] / "docs" / "formats.md"
UNUSABLE = "not an image, damaged, or in an unsupported format"
FORMATS = [
    ("PNG", {}),
    ("JPEG", {"quality": 95}),
    ("JPEG", {"quality": 95, "progressive": True}),
    ("BMP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"quality": 95}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("GIF", {}),
    ("PPM", {}),
    *((name, {"quality": 95}) for name in ("HEIF", "AVIF") if can_read(name)),
]


def encoded(image, name, **options):
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def decoded_or_reason(data):
    try:
        return decode_image(data, SIZE)
    except ImageFileError as error:
        return str(error)


def picture(width=40, height=24):
    """Four flat quarters: red, green / blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = 255
    return Image.fromarray(pixels)


def corners(pixels):
    return [pixels[y, x].astype(int).tolist() for y in (4, -5) for x in (4, -5)]


def assert_corners(pixels, expected, tolerance=12):
    np.testing.assert_allclose(corners(pixels), expected, atol=tolerance)


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_every_format(name, options):
    data = encoded(picture(), name, **options)
    pixels = decode_image(data, SIZE)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    assert_corners(pixels, [RED, GREEN, BLUE, WHITE])


def test_every_format_is_tested():
    assert {name for name, _ in FORMATS} == {name for name in FORMAT_OF_SUFFIX.values() if can_read(name)}


def test_every_suffix_is_documented():
    lines = FORMATS_PAGE.read_text(encoding="utf-8").partition("## Images")[2].splitlines()
    table = [line.split("|") for line in lines if line.startswith("| ")]
    assert set(FORMAT_OF_SUFFIX) == {suffix for row in table for suffix in re.findall(r"`(\.\w+)`", row[2])}


def test_only_the_first_frame_counts():
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    several = ("GIF", "TIFF", "WEBP", "PNG", "HEIF", "AVIF")
    for name in {name for name, _ in FORMATS if name in several}:
        data = encoded(frames[0], name, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(decode_image(data, SIZE)[5, 5], RED, atol=3)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF", "GIF"])
def test_few_colors(mode, name):
    image = Image.new("L", (16, 16), 255)
    image.paste(0, (0, 0, 16, 8))
    pixels = decode_image(encoded(image.convert(mode), name), SIZE)
    assert (pixels[:8] == 0).all()
    assert (pixels[-8:] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_becomes_white(mode):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 16))
    image.paste((0, 0, 0, 128), (8, 0, 16, 8))
    data = encoded(image.convert(mode) if mode != "PA" else image.quantize(), "PNG")
    pixels = decode_image(data, SIZE)
    assert_corners(pixels, [WHITE, [127] * 3, WHITE, [0] * 3], tolerance=2)


PLAIN_NETPBM = [
    (b"P1\n# a comment 7 8\n8 1\n1 0 1 0 0 0 0 0", [0, 255, 0]),
    (b"P2\r\n8 1\r\n100\r\n50#1 2 3\r\n100 0 0 0 0 0 0", [127, 255, 0]),
    (b"P5 8 1 65535\n\x80\x00\xff\xff" + bytes(12), [128, 255, 0]),
    (b"P5 8 1 4095\n\x08\x00\x0f\xff" + bytes(12), [128, 255, 0]),
]


@pytest.mark.parametrize(("data", "expected"), PLAIN_NETPBM)
def test_netpbm_with_text_comments_and_sixteen_bits(data, expected):
    np.testing.assert_allclose(decode_image(data, 8)[0, :3, 0], expected, atol=1)


@pytest.mark.parametrize("white", [1, 7, 100, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_binary_netpbm_is_scaled_from_any_maximum(white, channels):
    values = np.linspace(0, white, 8 * 8 * channels).astype(">u2" if white > 255 else "u1").reshape(8, 8, channels)
    data = b"P%d\n8 8\n%d\n" % (5 if channels == 1 else 6, white) + values.tobytes()
    expected = np.broadcast_to((values.astype(int) * 255 + white // 2) // white, (8, 8, 3))
    np.testing.assert_array_equal(decode_image(data, 8), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P3 1 1 255 1 2", UNUSABLE),
        (b"P5 a 1 255\na", UNUSABLE),
        (b"P5 2 2 100\n123", "truncated"),
        (b"P6 2 2 4095\n" + bytes(23), "truncated"),
        (b"P6 2 2 4095\n" + bytes(22) + b"\x10\0", "above its maximum, 4095"),
        (b"P2 1 1 255 -3", UNUSABLE),
        (b"P5 99999 99999 255\n", "too large"),
        (b"P3 9000 9000 65535\n", "too large: 9000 x 9000 pixels of this kind"),
        (b"Pf 1 1 -1\n\0\0\0\0", "has 32-bit pixels"),
    ],
)
def test_netpbm_that_cannot_be_used(data, reason):
    with pytest.raises(ImageFileError, match=reason):
        decode_image(data, 8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_color_becomes_white(mode):
    image = Image.new("L", (16, 16), 255)
    image.paste(0, (0, 0, 16, 8))
    image = image.convert(mode)
    transparent = (0, 0, 0) if mode == "RGB" else image.getpixel((0, 0))
    assert (decode_image(encoded(image, "PNG", transparency=transparent), SIZE) == 255).all()


def test_transparent_gif_and_webp_become_white():
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    for name in ("GIF", "WEBP", "TIFF"):
        assert (decode_image(encoded(image, name), SIZE) == 255).all()


def test_a_heic_named_otherwise_says_what_to_install(monkeypatch):
    monkeypatch.setattr(formats, "can_read", lambda name: name != "HEIF")
    with pytest.raises(ImageFileError, match=r'is a HEIC image; to read it: pip install "dbbd-cli\[heif\]"'):
        decode_image(b"\0\0\0\x18ftypheic" + bytes(99), 8)


@pytest.mark.skipif(not can_read("HEIF"), reason="pillow-heif is not installed")
def test_heic_with_several_images_and_with_ten_bits():
    import pillow_heif

    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    data = encoded(frames[0], "HEIF", save_all=True, append_images=frames[1:], primary_index=1)
    np.testing.assert_allclose(decode_image(data, SIZE)[5, 5], BLUE, atol=3)
    buffer = io.BytesIO()
    values = np.full((64, 64, 3), 40_000, np.uint16)
    pillow_heif.from_bytes("RGB;16", (64, 64), values.tobytes()).save(buffer, quality=95)
    np.testing.assert_allclose(decode_image(buffer.getvalue(), SIZE), 156, atol=3)
    assert pillow_heif.open_heif(buffer.getvalue()).info["bit_depth"] == 10


@pytest.mark.parametrize("name", ["HEIF", "AVIF"])
def test_transparent_heic_and_avif_become_white(name):
    if not can_read(name):
        pytest.skip("cannot be read here")
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    assert_corners(decode_image(encoded(image, name, quality=95), SIZE), [WHITE, [0] * 3, WHITE, [0] * 3], 3)


def test_the_reader_of_heic_is_loaded_only_for_it():
    code = (
        "import io, sys; from PIL import Image; from dbbd_cli.data.images.decode import decode_image; "
        "b = io.BytesIO(); Image.new('RGB', (4, 4)).save(b, 'PNG'); decode_image(b.getvalue(), 4); "
        "print('pillow_heif' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(name):
    values = np.array([[0, 257, 32896, 65535]], np.uint16).repeat(4, axis=0).repeat(8, axis=1)
    pixels = decode_image(encoded(Image.fromarray(values), name), SIZE)
    assert pixels[16, [2, 12, 20, -2], 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("order", "bits", "row"),
    [
        (">", 16, b"\x80\x00" * 8),
        ("<", 16, b"\x00\x80" * 8),
        ("<", 12, b"\x80\x08\x00" * 4),
    ],
)
def test_tiff_with_more_than_eight_bits_is_scaled(order, bits, row):
    """The files have 8 x 8 pixels, all half as bright as white."""
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: 1, 273: 122, 277: 1, 278: 8, 279: 8 * len(row)}
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}IH", 8, len(tags))
    data = head + entries + bytes(4) + 8 * row
    assert (decode_image(data, SIZE) == 128).all()


def png(samples, bits, color, *, transparent=None, palette=None):
    """Encode samples `(H, W, channels)` of `bits` bits as PNG."""
    rows = samples.reshape(len(samples), -1)
    if bits >= 8:
        packed = [row.astype(">u2" if bits == 16 else "u1").tobytes() for row in rows]
    else:
        packed = [np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1).tobytes() for row in rows]
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, color, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header),
            b"" if palette is None else png_chunk(b"PLTE", palette.astype("u1").tobytes()),
            b"" if transparent is None else png_chunk(b"tRNS", transparent),
            png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed))) + png_chunk(b"IEND"),
        )
    )


def over_white(color, alpha):
    """Blend values from 0 to 1 with white; the result is from 0 to 255."""
    return 255 * (color * alpha[..., None] + 1 - alpha[..., None])


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3)])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_color_of_a_png_becomes_white_at_any_depth(color, channels, bits):
    if color == 2 and bits < 8:
        pytest.skip("no such PNG")
    top = (1 << bits) - 1
    rng = np.random.default_rng(bits)
    for transparent in (np.zeros(channels, int), rng.integers(0, top + 1, channels)):
        samples = rng.integers(0, top + 1, (SIZE, SIZE, channels))
        samples[8:16, 8:16] = transparent
        data = png(samples, bits, color, transparent=b"".join(struct.pack(">H", value) for value in transparent))
        expected = over_white(samples / top, ~(samples == transparent).all(-1))
        np.testing.assert_allclose(decode_image(data, SIZE), np.broadcast_to(expected, (SIZE, SIZE, 3)), atol=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_entries_of_a_palette_become_white(bits):
    rng = np.random.default_rng(bits)
    palette, alpha = rng.integers(0, 256, (1 << bits, 3)), rng.integers(0, 256, 1 << bits)
    samples = rng.integers(0, 1 << bits, (SIZE, SIZE, 1))
    data = png(samples, bits, 3, palette=palette, transparent=alpha.astype("u1").tobytes())
    expected = over_white(palette[samples[..., 0]] / 255, alpha[samples[..., 0]] / 255)
    np.testing.assert_allclose(decode_image(data, SIZE), expected, atol=1)


@pytest.mark.parametrize(("color", "channels"), [(4, 2), (6, 4)])
@pytest.mark.parametrize("bits", [8, 16])
def test_an_alpha_channel_of_a_png_lets_white_through_at_any_depth(color, channels, bits):
    top = (1 << bits) - 1
    samples = np.random.default_rng(bits).integers(0, top + 1, (SIZE, SIZE, channels))
    expected = over_white(samples[..., :-1] / top, samples[..., -1] / top)
    pixels = decode_image(png(samples, bits, color), SIZE)
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, pixels.shape), atol=2)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white(bits):
    row = b"\x00\x40" * 8 if bits == 16 else b"\x40" * 8
    tags = {256: 8, 257: 8, 258: bits, 259: 1, 262: 0, 273: 122, 277: 1, 278: 8, 279: 8 * len(row)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + 8 * row
    assert (decode_image(data, SIZE) == 255 - 64).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_defined_white_are_rejected(dtype):
    with pytest.raises(ImageFileError, match="32-bit pixels"):
        decode_image(encoded(Image.fromarray(np.ones((8, 8), dtype)), "TIFF"), SIZE)


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk(name):
    options = {"quality": 95} if name == "JPEG" else {}
    assert_corners(decode_image(encoded(picture().convert("CMYK"), name, **options), SIZE), [RED, GREEN, BLUE, WHITE])


ORIENTED = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_orientation_is_applied(name, orientation):
    if not can_read(name):
        pytest.skip("cannot be read here")
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if name in ("PNG", "TIFF") else {"quality": 95}
    pixels = decode_image(encoded(picture(), name, exif=exif.tobytes(), **options), SIZE)
    assert_corners(pixels, ORIENTED[orientation])


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"no header at all"])
def test_images_with_damaged_exif_are_read(name, exif):
    data = encoded(picture(), name, exif=b"Exif\0\0" + exif)
    assert_corners(decode_image(data, SIZE), [RED, GREEN, BLUE, WHITE], tolerance=30)


def test_resize_averages_over_the_area():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    pixels = decode_image(encoded(Image.fromarray(stripes), "PNG"), 8)
    assert abs(pixels.astype(int) - 127).max() < 12


def test_large_jpeg_decoded_at_a_fraction_looks_the_same():
    y, x = np.mgrid[0:512, 0:768]
    pixels = np.stack([x / 768 * 255, y / 512 * 255, 128 + 100 * np.sin(np.hypot(x, y) / 5)], axis=-1)
    data = encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG", quality=95, subsampling=0)
    with Image.open(io.BytesIO(data)) as image:
        whole = np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR)).astype(int)
    error = abs(decode_image(data, 128) - whole)
    assert 0 < error.max() <= 6  # 0: the fraction was not used


@pytest.mark.parametrize(
    "data",
    [
        b"hello, I am a text",
        bytes(1000),
        b"P8 2 2 255 aaaabbbbcccc",
        b"\0\0\0\x18ftypisom\0\0\0\0mp41",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"8BPS\0\1",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        b"RIFF\0\0\0\0WAVEfmt ",
    ],
)
def test_other_content_is_not_an_image(data):
    with pytest.raises(ImageFileError, match=f"^{UNUSABLE}$"):
        decode_image(data, SIZE)
    with pytest.raises(ImageFileError, match="empty file"):
        decode_image(b"", SIZE)


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_a_truncated_file_never_gives_a_different_image(name, options):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), name, **options)
    whole = decode_image(data, SIZE)
    for length in [*range(40), *range(40, len(data) - 12, 97), *range(len(data) - 12, len(data))]:
        result = decoded_or_reason(data[:length])
        if isinstance(result, str):
            assert result in ("empty file", "truncated", UNUSABLE)
        else:  # only the end mark is missing
            assert length > len(data) - 13, length
            np.testing.assert_array_equal(result, whole)


def test_half_a_file_is_called_truncated():
    for name in ("PNG", "JPEG", "BMP"):
        data = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), name)
        with pytest.raises(ImageFileError, match=r"^truncated$"):
            decode_image(data[: len(data) // 2], SIZE)


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_changed_bytes_give_an_error_or_a_picture(name, options):
    rng = np.random.default_rng(1)
    data = np.frombuffer(encoded(picture(), name, **options), np.uint8)
    for _ in range(150):
        broken = data.copy()
        where = rng.integers(0, min(len(broken), 200), 3)
        broken[where] = rng.integers(0, 256, 3)
        result = decoded_or_reason(broken.tobytes())
        assert isinstance(result, str) or result.shape == (SIZE, SIZE, 3)


def test_noise_after_any_signature_is_an_error():
    rng = np.random.default_rng(2)
    for name, options in FORMATS:
        head = encoded(picture(), name, **options)[:16]
        for _ in range(10):
            with pytest.raises(ImageFileError):
                decode_image(head + rng.bytes(300), SIZE)


def png_header(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_too_many_pixels_are_rejected_before_decoding():
    assert MAX_PIXELS < 13_000**2
    with pytest.raises(ImageFileError) as caught:
        decode_image(png_header(13_000, 13_000), SIZE)
    assert str(caught.value) == "too large: 13000 x 13000 pixels (limit 90,000,000 in all)"
    with pytest.raises(ImageFileError, match=r"^too large: more than 90,000,000 pixels$"):
        decode_image(png_header(60_000, 60_000), SIZE)
    with pytest.raises(ImageFileError, match=r"^(truncated|not an image, damaged)"):
        decode_image(png_header(9_000, 9_999), SIZE)


def png_chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def scanned(times):
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(picture(16, 16), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


@pytest.mark.parametrize("size", [(100_001, 1), (1, 100_001)])
def test_a_side_that_is_too_long_is_rejected(size):
    data = encoded(Image.new("L", size), "PNG")
    with pytest.raises(ImageFileError, match=r"^too large: .* \(limit 100,000 on a side\)$"):
        decode_image(data, SIZE)


def test_files_of_many_pieces_are_read():
    chunks = encoded(picture(), "PNG")
    assert decode_image(scanned(900), SIZE).shape == (SIZE, SIZE, 3)
    padded = chunks + bytes(300_000)
    assert decode_image(padded, SIZE).shape == (SIZE, SIZE, 3)
    many = chunks[:33] + png_chunk(b"tEXt", b"a\0b") * 9000 + chunks[33:]
    assert decode_image(many, SIZE).shape == (SIZE, SIZE, 3)
    rows = encoded(picture(40, 20_000), "TIFF", tiffinfo={278: 1})
    assert decode_image(rows, SIZE).shape == (SIZE, SIZE, 3)


def test_lack_of_memory_is_reported(monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(ImageFileError, match="needs too much memory to decode"):
        decode_image(encoded(picture(), "PNG"), SIZE)


def test_pillow_warnings_are_not_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageFileError, match=r"^(truncated|not an image, damaged)"):
            decode_image(png_header(9_470, 9_480), SIZE)  # PIL warns of such a size
        with pytest.raises(ImageFileError, match=r"^too large: 9500 x 9500"):
            decode_image(png_header(9_500, 9_500), SIZE)
        corrupt = b"Exif\0\0II*\0\x08\0\0\0\xff\0"  # and of such a note
        assert decode_image(encoded(picture(), "PNG", exif=corrupt), SIZE).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("name", "options"), [("PNG", {}), ("JPEG", {"quality": 95})])
def test_gray_pixels_keep_proportions_and_are_upright(name, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(400, 200), name, exif=exif.tobytes(), **options)
    whole, reduced = decode_gray(data, 1000), decode_gray(data, 100)
    assert whole.shape == ((200, 400) if orientation == 1 else (400, 200))
    assert reduced.shape == ((50, 100) if orientation == 1 else (100, 50))
    red, white = (76, 255)  # the luma of red and white
    corners = [(2, 2), (-3, -3)] if orientation == 1 else [(2, -3), (-3, 2)]
    for pixels in (whole, reduced):
        for corner, expected in zip(corners, (red, white), strict=True):
            assert abs(int(pixels[corner]) - expected) <= 4
    with pytest.raises(ImageFileError, match="empty file"):
        decode_gray(b"", 100)
