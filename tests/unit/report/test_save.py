"""Figures are written atomically, with equal bytes for equal figures, and never through links."""

from __future__ import annotations

import errno
import os
from io import BytesIO, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from dbbd_cli.core.errors import DiskError, ExitCode
from dbbd_cli.core.temporary import temporary_path
from dbbd_cli.report.save import render, save_figure, write_file
from dbbd_cli.report.style import headed_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def small_figure() -> Figure:
    """A figure with everything that could differ between two renderings: markers, clipping, an image, names."""
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
    path = tmp_path / "out" / "figure.png"
    path.parent.mkdir()
    path.write_bytes(b"old")
    assert save_figure(figure, path) == path
    assert path.read_bytes() == render(figure, "png")
    assert list(path.parent.iterdir()) == [path]


def test_figures_are_sharp() -> None:
    with Image.open(BytesIO(render(small_figure(), "png"))) as image:
        assert image.size == (300, 300)


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    class FullDisk(FileIO):
        def write(self, data: Any) -> int:
            super().write(data[:1])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk(self, mode))
    with pytest.raises(DiskError, match="No space left") as caught:
        write_file(path, b"new")
    assert "free some space" in caught.value.hint
    assert caught.value.exit_code == ExitCode.DISK
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "figure.png"
    taken.mkdir()
    for path in (taken, tmp_path / "missing" / "figure.png"):
        with pytest.raises(DiskError) as caught:
            write_file(path, b"new")
        assert str(path) in caught.value.message
        assert "choose another" in caught.value.hint
        assert "--" not in caught.value.hint  # the command is not known here
    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_nothing_is_written_through_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "figure.png"
    monkeypatch.setattr("secrets.token_hex", lambda count: "a1b2c3d4")
    for name in ("figure.png", "figure.png.tmp", f".figure.png.{os.getpid()}.tmp"):
        (folder / name).symlink_to(elsewhere)
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    # Nor through a link with the name of the temporary file.
    temporary_path(path).symlink_to(elsewhere)
    with pytest.raises(DiskError):
        write_file(path, b"newer")
    assert path.read_bytes() == b"new"
    assert elsewhere.read_bytes() == b"precious"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_figures_have_the_permissions_of_other_new_files(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    write_file(tmp_path / "figure.png", b"new")
    assert (tmp_path / "figure.png").stat().st_mode == other.stat().st_mode
