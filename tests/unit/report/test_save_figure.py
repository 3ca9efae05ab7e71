from __future__ import annotations

import errno
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from dbbd_cli.errors import ConfigError, DiskError, ExitCode
from dbbd_cli.report.save import render, save_figure, write_file
from dbbd_cli.report.style import headed_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def small_figure() -> Figure:
    """A figure with what could differ between two drawings: markers, clipping, a picture, names."""
    with styled():
        figure = headed_figure((2, 2), "Title", ["fact"], name="$name", warning="synthetic data")
        axes = figure.subplots()
        axes.imshow([[0.0, 1.0]])
        axes.plot([0, 1], [0, 0.5], "o-")
        return figure


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_equal_figures_make_equal_bytes(tmp_path: Path, suffix: str, start: bytes) -> None:
    first, second = (save_figure(small_figure(), tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith(start)
    for mark in (b"Matplotlib", b"matplotlib.org", b"CreationDate", b"dc:date"):
        assert mark not in first


def test_saving_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    figure = small_figure()
    path = tmp_path / "out" / "figure.PNG"
    path.parent.mkdir()
    path.write_bytes(b"old")
    assert save_figure(figure, path) == path
    assert path.read_bytes() == render(figure, "png")
    assert list(path.parent.iterdir()) == [path]


def test_figures_are_sharp() -> None:
    with Image.open(BytesIO(render(small_figure(), "png"))) as image:
        assert image.size == (300, 300)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    for name in ("figure.gif", "figure"):
        with pytest.raises(ConfigError, match="not written in this format"):
            save_figure(small_figure(), tmp_path / name)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(DiskError, match="No space left") as caught:
        write_file(path, b"new")
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == ExitCode.DISK
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "figure.png"
    taken.mkdir()
    for path in (taken, tmp_path / "missing" / "figure.png"):
        with pytest.raises(DiskError) as caught:
            write_file(path, b"new")
        assert str(path) in caught.value.message
        assert "--out" in caught.value.hint
    assert list(tmp_path.iterdir()) == [taken]
