"""Untrusted pictures are read in worker processes, and bad ones are reported without affecting the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from dbbd_cli.core.progress import Silent
from dbbd_cli.data.images import processes
from dbbd_cli.data.images.codes import CodesRead, read_all_codes, read_codes
from dbbd_cli.data.images.qr_code import render_modules
from dbbd_cli.data.images.qr_reader import NOTHING_FOUND, Picture
from dbbd_cli.data.images.url_pictures import read_urls, url_of


def saved(path: Path, text: str, **options: object) -> Path:
    Image.fromarray(render_modules(text, 4)).save(path, **options)
    return path


def test_a_path_and_its_content_give_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "code.png", "a.example/1")
    assert read_codes(path) == read_codes(path.read_bytes()) == CodesRead(("a.example/1",))
    assert read_codes(b"text").problem == "not an image, damaged, or in an unsupported format"
    assert read_codes(tmp_path / "gone.png").problem == "cannot be read: No such file or directory"


def test_many_pictures_are_read_in_any_order(tmp_path: Path) -> None:
    texts = [f"a.example/{number}" for number in range(40)]
    found = dict(read_all_codes([Picture(url=text) for text in texts]))
    assert [found[place].texts for place in range(40)] == [(text,) for text in texts]


def test_a_photo_on_its_side_with_transparency_and_color_is_read(tmp_path: Path) -> None:
    gray = Image.fromarray(render_modules("a.example/1", 4))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    gray.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    clear = np.zeros((*np.asarray(gray).shape, 4), np.uint8)
    clear[..., 3] = 255 - np.asarray(gray)  # black on nothing
    Image.fromarray(clear).save(tmp_path / "clear.png")
    clear[..., :3] = 255  # white on nothing, for dark pages
    Image.fromarray(clear).save(tmp_path / "white.png")
    names = ("turned.jpg", "clear.png", "white.png")
    found = dict(read_all_codes([Picture(str(tmp_path / name)) for name in names]))
    assert found == dict.fromkeys(range(3), CodesRead(("a.example/1",)))


def test_a_picture_that_kills_its_process_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [saved(tmp_path / f"{name}.png", f"{name}.example") for name in ("a", "dead", "b")]
    start, _, _ = processes._START.partition("from")
    harm = "os._exit(9) if p.path.endswith('dead.png') else read(p)"
    imports = "import os; import dbbd_cli.data.images.processes as w; read = w.read_picture; "
    change = f"{imports}w.read_picture = lambda p: {harm}; w.main()"
    monkeypatch.setattr(processes, "_START", start + change)
    found = read_urls([str(path) for path in paths], Silent())
    assert found == [
        ("a.example", ""),
        ("", "the process that prepared it ended unexpectedly (exit code 9)"),
        ("b.example", ""),
    ]


@pytest.mark.parametrize(
    ("found", "url", "problem"),
    [
        (CodesRead((" http://a.example/1\n",)), "http://a.example/1", ""),
        (CodesRead(("a.example/b",)), "a.example/b", ""),
        (CodesRead(("URL:http://a.example",)), "http://a.example", ""),
        (CodesRead((), NOTHING_FOUND), "", "no QR code"),
        (CodesRead(("a.example", "b.example")), "", "2 different codes"),
        (CodesRead(("WIFI:T:WPA;S:net;P:secret;;",)), "", "Wi-Fi"),
        (CodesRead(("BEGIN:VCARD\nEND:VCARD",)), "", "vCard"),
        (CodesRead(("tel:+1234567",)), "", "telephone"),
        (CodesRead(("hello world",)), "", "plain text"),
        (CodesRead(("http://münchen.example",), "the bytes of its code are not UTF-8"), "", "not UTF-8"),
    ],
)
def test_a_picture_has_a_url_or_a_problem(found: CodesRead, url: str, problem: str) -> None:
    read, reason = url_of(found)
    assert read == url
    assert problem in reason
    assert bool(reason) == (not url)
    assert "secret" not in reason
