"""Read LAS and LAZ files, COPC included, with laspy and lazrs, block by block."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dbbd_cli.data.scenes.formats.blocks import BLOCK_POINTS, joined, too_many_points
from dbbd_cli.data.scenes.formats.names import column_arrays
from dbbd_cli.data.scenes.formats.optional import damage, optional_package
from dbbd_cli.data.scenes.scene import MAX_POINTS, SceneArrays

_BLOCK_BYTES = 1 << 27
_VLR_BYTES = 54
"""Size of the header of a variable-length record."""
_FIRST_LAYERED = 6
"""From this point format on, a chunk of a LAZ file consists of layers."""
_LAYERS = {6: 9, 7: 10, 8: 11, 9: 10, 10: 12}
"""Layers of each point format, without those of the extra bytes."""
_COORDINATES = ("X", "Y", "Z")
"""Integers, from which laspy computes `x`, `y` and `z`."""
_MAX_DIMENSIONS = 32


def read_las(path: Path) -> SceneArrays:
    """Read a scene from a `.las` or `.laz` file; see `reader` for what a reader returns and raises."""
    return joined(_blocks(path, MAX_POINTS))


def las_blocks(path: Path) -> Iterator[SceneArrays]:
    """Read the points of a file block by block.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a LAS file, or is damaged; the message says why.
        MissingPackageError: laspy or lazrs is not installed.
    """
    return _blocks(path, None)


def without_unset_classes(arrays: SceneArrays) -> SceneArrays:
    """The arrays without their classification if it is 0 for all points, which means "created, never classified"."""
    if arrays.segment is None or np.any(arrays.segment) or "classification" in arrays.properties:
        return arrays  # in the last case, the labels are an extra dimension
    return replace(arrays, segment=None)


def _blocks(path: Path, max_points: int | None) -> Iterator[SceneArrays]:
    laspy, lazrs = optional_package("laspy", "las"), optional_package("lazrs", "las")
    with path.open("rb") as file:
        _check_header(file)
        with damage("LAS file"):
            # Not in threads, which would allocate the sizes that a damaged file declares.
            reader = laspy.LasReader(file, closefd=False, laz_backend=laspy.LazBackend.Lazrs, read_evlrs=False)
            count, row = int(reader.header.point_count), int(reader.header.point_format.size)
            names = [*reader.header.point_format.dimension_names]
            start = int(reader.header.offset_to_point_data)
            packed = reader.header.are_points_compressed
            most = _most_points(file, start, reader.header, lazrs) if packed and count else None
        size = os.fstat(file.fileno()).st_size
        if max_points is not None and count > max_points:
            raise too_many_points(f"{count:,}")
        if not packed and count * row > size - start:
            raise ValueError(
                f"is truncated: {count:,} points need {count * row:,} bytes, but only {max(size - start, 0):,} are left"
            )
        if most is not None and count > most:
            raise ValueError(f"is damaged: it declares {count:,} points, but has chunks for {most:,}")
        names = [name for name in names if name not in _COORDINATES][:_MAX_DIMENSIONS]
        step = max(1, min(BLOCK_POINTS, _BLOCK_BYTES // max(row, 1)))
        for first in range(0, count, step):
            with damage("LAS file"):
                points = reader.read_points(min(step, count - first))
                columns = _columns(points, names)
            if len(points) != min(step, count - first):
                raise ValueError(f"is truncated after {first + len(points):,} of {count:,} points")
            yield column_arrays(columns)


def _check_header(file: BinaryIO) -> None:
    """Check what laspy trusts: the number of records before the points."""
    header = file.read(227)
    file.seek(0)
    if header[:4] != b"LASF":
        raise ValueError("is not a LAS file: it does not begin with LASF")
    if len(header) < 227:
        raise ValueError("is truncated in its header")
    start, num_records = struct.unpack("<II", header[96:104])
    if start > os.fstat(file.fileno()).st_size:
        raise ValueError("is truncated before its points")
    if num_records * _VLR_BYTES > start:
        raise ValueError(f"is damaged: {num_records:,} records do not fit before its points")


def _most_points(file: BinaryIO, start: int, header: Any, lazrs: Any) -> int | None:
    """The points that fit into the chunks of a LAZ file, which decodes to noise beyond them; None if unknown.

    Also checks what the decoder allocates memory for: the number of chunks, and the sizes of the layers of each.
    """
    form, row = header.point_format, int(header.point_format.size)
    chunks = lazrs.LazVlr(header.vlrs.get("LasZipVlr")[0].record_data)
    place, end = file.tell(), file.seek(0, os.SEEK_END)
    file.seek(start)
    table = _number(file, "<q")
    if table == -1:  # written to a stream
        file.seek(end - 8)
        table = _number(file, "<q")
    if not start < table < end - 8:
        if form.id >= _FIRST_LAYERED:
            raise ValueError("its table of chunks is missing")
        file.seek(place)
        return None
    file.seek(table + 4)
    num_chunks = _number(file, "<I")
    if num_chunks * row > table - start:
        raise ValueError(f"its {num_chunks:,} chunks do not fit into the file")
    if form.id >= _FIRST_LAYERED:
        num_layers = _LAYERS[form.id] + int(form.num_extra_bytes)
        file.seek(start)
        first = start + 8
        for _, num_bytes in lazrs.read_chunk_table(file, chunks):
            file.seek(first + row + 4)
            if sum(struct.unpack(f"<{num_layers}I", file.read(4 * num_layers))) > num_bytes:
                raise ValueError("a chunk is damaged")
            first += num_bytes
    file.seek(place)
    return None if chunks.uses_variable_size_chunks() else int(num_chunks * chunks.chunk_size())


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _columns(points: Any, names: list[str]) -> dict[str, np.ndarray]:
    columns = {axis: np.asarray(getattr(points, axis)) for axis in ("x", "y", "z")}
    for name in names:
        values = np.asarray(points[name])
        if values.ndim == 1 and values.dtype.kind in "biuf":
            columns.setdefault(name.lower(), values.copy())
    return columns
