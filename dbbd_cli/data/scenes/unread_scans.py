"""Recognizes scans in formats that are not read by their names: they are counted instead of silently ignored."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePath

_SCAN_SUFFIXES = frozenset(
    {
        *(".las", ".laz", ".e57", ".pcd", ".pts", ".ptx", ".xyz", ".xyzrgb", ".xyzn", ".asc", ".fls", ".rcp", ".rcs"),
        *(".obj", ".stl", ".off", ".glb", ".gltf", ".fbx", ".dae", ".3ds", ".usdz", ".usd", ".vtk", ".vtp", ".drc"),
        *(".splat", ".spz", ".ksplat", ".bin", ".npy", ".h5", ".hdf5", ".pth", ".pt", ".mat", ".feather", ".parquet"),
        *(".ply.gz", ".ply.zip", ".npz.gz", ".pkl.gz", ".las.gz", ".pcd.gz", ".xyz.gz", ".pickle"),
    }
)
"""Suffixes of scans in formats that are not read."""
_TABLE_SUFFIXES = (".txt", ".csv")
"""Suffixes of scans as well as of notes."""
_FIRST_BYTES, _FEWEST_LINES = 4096, 10
_WORD = re.compile(r"[^\W\dEe_]")
_NUMBERS = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")


def unread_suffix(entry: os.DirEntry[str]) -> str:
    """The suffix of a scan in a format that is not read; empty if the entry is not one."""
    name = entry.name.lower()
    suffixes = ["".join(PurePath(name).suffixes[-count:]) for count in (2, 1)]
    suffix = next((suffix for suffix in suffixes if suffix in _SCAN_SUFFIXES), "")
    if not suffix and name.endswith(_TABLE_SUFFIXES) and _is_table(entry):
        suffix = suffixes[1]
    return suffix


def _is_table(entry: os.DirEntry[str]) -> bool:
    """Whether a text begins with many lines of three or more numbers, as points do, unlike notes and matrices."""
    try:
        if not stat.S_ISREG(entry.stat().st_mode):  # opening a pipe would block forever
            return False
        with Path(entry.path).open("rb") as file:
            lines = file.read(_FIRST_BYTES).decode("latin1").splitlines()[:-1]
    except OSError:
        return False
    numeric = [line for line in lines if not _WORD.search(line) and len(_NUMBERS.findall(line)) >= 3]
    return len(numeric) >= _FEWEST_LINES
