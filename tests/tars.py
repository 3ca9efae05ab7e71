"""Tar shards for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

Member = tuple[str, bytes]


def picture(number: int, form: str = "PNG") -> bytes:
    """A small picture, different for each number."""
    buffer = io.BytesIO()
    Image.new("L", (9, 7), number % 251).resize((9 + number // 251, 7)).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[Member], **options: int) -> Path:
    """Write members, in this order, as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(first: int, count: int, classes: Sequence[str] = ("cat", "dog")) -> list[Member]:
    """Pictures with their classes, which alternate."""
    found = []
    for number in range(first, first + count):
        found.append((f"{number:04}.png", picture(number)))
        found.append((f"{number:04}.cls", classes[number % len(classes)].encode()))
    return found


def write_shards(folder: Path, sizes: Sequence[int] = (7, 12, 5), classes: Sequence[str] = ("cat", "dog")) -> Path:
    """Write shards `a-00.tar`, `a-01.tar`, … of these sizes; return their folder."""
    first = 0
    for number, size in enumerate(sizes):
        write_tar(folder / f"a-{number:02}.tar", samples(first, size, classes))
        first += size
    return folder
