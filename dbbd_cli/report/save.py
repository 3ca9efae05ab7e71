"""Write figures and pages atomically; equal content has equal bytes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from dbbd_cli.core.errors import DiskError
from dbbd_cli.core.files import can_write_to, repair_of, write_bytes
from dbbd_cli.report.style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# None omits a field: dates and versions would make equal figures differ.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the path's suffix (png, svg or pdf) and return the path.

    Raises:
        DiskError: the disk is full or the folder is not writable.
    """
    write_file(path, render(figure, path.suffix[1:]))
    return path


def render(figure: Figure, kind: str, transparent: bool = False) -> bytes:
    """Render a figure as the bytes of a png, svg or pdf file."""
    buffer = BytesIO()
    with styled():
        figure.savefig(buffer, format=kind, metadata=_METADATA[kind], transparent=transparent)
    return buffer.getvalue()


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        DiskError: the disk is full or the folder is not writable.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        raise disk_error(path, error) from error


def check_writable(folder: Path) -> None:
    """Check that a folder is writable, before anything expensive is computed.

    Raises:
        DiskError: it is not.
    """
    if not can_write_to(folder):
        raise DiskError(f"no files can be written to {folder}", hint="choose another folder with --out DIR")


def disk_error(path: Path, error: OSError) -> DiskError:
    """The error for a `path` that could not be written."""
    return DiskError(
        f"{path} cannot be written: {error.strerror or error}", hint=f"{repair_of(error)}, or choose another folder"
    )
