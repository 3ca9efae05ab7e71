"""Read E57 files with pye57: all scans of a file, joined by their poses, block by block."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dbbd_cli.data.scenes.formats.blocks import BLOCK_POINTS, joined, too_many_points
from dbbd_cli.data.scenes.formats.optional import damage, optional_package
from dbbd_cli.data.scenes.scene import MAX_POINTS, SceneArrays

_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_COLORS = ("colorRed", "colorGreen", "colorBlue")
_NORMALS = ("nor:normalX", "nor:normalY", "nor:normalZ")
_INTENSITY = "intensity"
_INVALID = ("cartesianInvalidState", "sphericalInvalidState")
_MAX_SCANS = 10_000
_CHECKSUM_BYTES = 4
"""At the end of each page."""
_MAX_XML_BYTES = 1 << 28


def read_e57(path: Path) -> SceneArrays:
    """Read a scene from an `.e57` file; see `reader` for what a reader returns and raises."""
    return joined(_blocks(path, MAX_POINTS))


def e57_blocks(path: Path) -> Iterator[SceneArrays]:
    """Read the points of all scans block by block.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an E57 file, or is damaged; the message says why.
        MissingPackageError: pye57 is not installed.
    """
    return _blocks(path, None)


def _blocks(path: Path, max_points: int | None) -> Iterator[SceneArrays]:
    pye57 = optional_package("pye57", "e57")
    _check_xml(path)
    with damage("E57 file"):
        file = pye57.E57(str(path))
    try:
        with damage("E57 file"):
            num_scans = min(file.scan_count, _MAX_SCANS)
            headers = [file.get_header(index) for index in range(num_scans)]
            counts = [int(header.point_count) for header in headers]
            # Parts that only some of the scans have are left out.
            shared = set.intersection(*(set(header.point_fields) for header in headers)) if headers else set()
        if max_points is not None and sum(counts) > max_points:
            raise too_many_points(f"{sum(counts):,}")
        for header, count in zip(headers, counts, strict=True):
            yield from _scan_blocks(pye57.libe57, file.image_file, header, count, shared)
    finally:
        file.close()


def _scan_blocks(libe57: Any, image_file: Any, header: Any, count: int, shared: set[str]) -> Iterator[SceneArrays]:
    coordinates = next((names for names in (_CARTESIAN, _SPHERICAL) if set(names) <= set(header.point_fields)), None)
    if coordinates is None:
        raise ValueError("has a scan without coordinates")
    optional = [names for names in (_COLORS, _NORMALS, (_INTENSITY,)) if set(names) <= shared]
    invalid = [name for name in _INVALID if name in header.point_fields]
    wanted = [*coordinates, *(name for names in optional for name in names), *invalid]
    size = min(BLOCK_POINTS, count)
    if not size:
        return
    with damage("E57 file"):
        rotation, translation = _pose(header)
        columns = {name: np.zeros(size, np.float64) for name in wanted}
        buffers = libe57.VectorSourceDestBuffer()
        for name, column in columns.items():
            buffers.append(libe57.SourceDestBuffer(image_file, name, column, size, True, True))
        reader = header.points.reader(buffers)
    left = count
    try:
        while left > 0:
            with damage("E57 file"):
                found = min(int(reader.read()), left)
            if found <= 0:
                raise ValueError(f"is truncated: {left:,} points of a scan are missing")
            left -= found
            block = {name: column[:found] for name, column in columns.items()}
            valid = np.ones(found, bool)
            for name in invalid:
                valid &= block[name] == 0
            if valid.any():
                yield _arrays({name: column[valid] for name, column in block.items()}, rotation, translation)
    finally:
        reader.close()


def _arrays(columns: dict[str, np.ndarray], rotation: np.ndarray, translation: np.ndarray) -> SceneArrays:
    """The points of a block in the coordinates of the file."""

    def stacked(names: Sequence[str]) -> np.ndarray | None:
        return np.stack([columns[name] for name in names], axis=1) if set(names) <= columns.keys() else None

    coord = stacked(_CARTESIAN)
    if coord is None:
        distance, azimuth, elevation = (columns[name] for name in _SPHERICAL)
        flat = distance * np.cos(elevation)
        height = distance * np.sin(elevation)
        coord = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height], axis=1)
    normal, color = stacked(_NORMALS), stacked(_COLORS)
    return SceneArrays(
        coord @ rotation.T + translation,
        None if normal is None else normal @ rotation.T,
        None if color is None else color.astype(np.float32),
        properties={_INTENSITY: columns[_INTENSITY].astype(np.float32)} if _INTENSITY in columns else {},
    )


def _pose(header: Any) -> tuple[np.ndarray, np.ndarray]:
    """The rotation matrix and the translation of a scan."""
    if not header.has_pose():
        return np.eye(3), np.zeros(3)
    translation = np.asarray(header.translation, np.float64)
    w, x, y, z = np.asarray(header.rotation, np.float64) / np.linalg.norm(header.rotation)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return rotation, translation


def _check_xml(path: Path) -> None:
    """Refuse what the XML parser of libE57Format would follow: entities, which can be huge or name other files."""
    with path.open("rb") as file:
        header = file.read(48)
        if header[:8] != b"ASTM-E57":
            raise ValueError("is not an E57 file: it does not begin with ASTM-E57")
        if len(header) < 48:
            raise ValueError("is truncated in its header")
        start, length, page = struct.unpack("<QQQ", header[24:])
        if length > _MAX_XML_BYTES or not 64 <= page <= 1 << 24 or start > 1 << 60:
            raise ValueError("is damaged: its header is invalid")
        file.seek(start)
        data, left = b"", page - start % page
        pieces = []
        while length > 0 and (data := file.read(left)):
            piece = data[: left - _CHECKSUM_BYTES][:length]
            pieces.append(piece)
            length -= len(piece)
            left = page
    xml = b"".join(pieces)
    if length > 0:
        raise ValueError("is truncated: its description is missing")
    declaration = xml.lstrip()[:200].lower().replace(b"'", b'"')
    encoding = declaration.partition(b"?>")[0].partition(b'encoding="')[2].partition(b'"')[0]
    if b"\0" in xml or b"<!doctype" in xml.lower() or encoding not in (b"", b"utf-8"):
        raise ValueError("is not read: its description contains XML that E57 files do not use")
