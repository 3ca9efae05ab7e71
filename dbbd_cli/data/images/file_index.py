"""The digests of a data set's files, kept in the cache: a file that has not changed since is not read again.

A file counts as unchanged if its path, inode, size and times (of the last change of its content, and of anything about
it) are the same. Times have a coarse resolution, so a file that was changed within two seconds before it was hashed is
hashed again by the next run.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.array_cache import SUFFIX, Arrays, read_arrays, write_arrays
from dbbd_cli.data.images.refs import hash_files

_FORMAT = 2
_SETTLED_NS = 2 * 10**9
"""Coarsest resolution of the times of a file, that of FAT."""
_KEY_BYTES = 16
_IDENTITY = struct.Struct("<Qqqq")
_AT_ONCE = 10_000


def digests_of(paths: Sequence[str], roots: Sequence[Path], cache_dir: Path, progress: Progress) -> list[str | OSError]:
    """Return the SHA-256 of each file, from the index or computed; for an unreadable one, its error.

    Args:
        paths: the files.
        roots: the folders of the data set, which name its index.
        cache_dir: folder of the caches.
        progress: shows the files that are read.

    Raises:
        DiskError: the cache cannot be written.
    """
    index = cache_dir / _index_name(roots)
    keys, changed, missing = _identities(paths, progress)
    known = read_arrays(index, _is_index)
    places = np.full(len(paths), -1) if known is None else places_of(known["keys"], keys)
    found: list[str | OSError] = [""] * len(paths)
    if known is not None:
        for first in range(0, len(paths), 1 << 16):
            part = places[first : first + (1 << 16)]
            text = known["sha256"][part].tobytes().hex()
            found[first : first + len(part)] = [text[64 * n : 64 * n + 64] for n in range(len(part))]
    new = np.flatnonzero(places < 0).tolist()
    if not new:
        return found
    begin = time.time_ns()
    for place, digest in zip(new, hash_files([paths[place] for place in new], progress), strict=True):
        found[place] = digest
    _write(index, keys, found, (changed < begin - _SETTLED_NS) & ~missing)
    return found


def _index_name(roots: Sequence[Path]) -> str:
    hasher = hashlib.sha256(str(_FORMAT).encode())
    for root in roots:
        hasher.update(os.fsencode(root) + b"\0")
    return f"files-{hasher.hexdigest()[:32]}{SUFFIX}"


def _identities(paths: Sequence[str], progress: Progress) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What says whether files are the same as before.

    Returns:
        A hash of each, `(N, 2)`, uint64; when each was last changed, nanoseconds since 1970, `(N,)`; and whether
        there is no such file, `(N,)`.
    """
    keys = bytearray()
    changed = np.zeros(len(paths), dtype=np.int64)
    missing = np.zeros(len(paths), dtype=bool)
    with progress.phase("Looking for changed files", len(paths), unit="files") as bar:
        for place, path in enumerate(paths):
            if place % _AT_ONCE == 0:
                bar.advance(min(_AT_ONCE, len(paths) - place))
            try:
                status = os.stat(path)  # noqa: PTH116 - a Path object per file is slow
            except (OSError, ValueError):
                missing[place] = True
                keys += bytes(_KEY_BYTES)
                continue
            changed[place] = max(status.st_mtime_ns, status.st_ctime_ns)
            identity = _IDENTITY.pack(
                status.st_ino % 2**64, status.st_size, status.st_mtime_ns, status.st_ctime_ns
            ) + path.encode("utf-8", "surrogatepass")
            keys += hashlib.blake2b(identity, digest_size=_KEY_BYTES).digest()
    return np.frombuffer(bytes(keys), "<u8").reshape(-1, 2), changed, missing


def places_of(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where keys `(N, 2)` stand among known ones `(M, 2)`, which are sorted by their first number; -1: nowhere."""
    places = np.minimum(np.searchsorted(known[:, 0], keys[:, 0]), len(known) - 1)
    return np.where((known[places] == keys).all(axis=1), places, -1)


def _is_index(arrays: Arrays) -> bool:
    return len(arrays["keys"]) > 0


def _write(index: Path, keys: np.ndarray, found: Sequence[str | OSError], keep: np.ndarray) -> None:
    kept = [place for place in np.flatnonzero(keep).tolist() if isinstance(found[place], str)]
    if not kept:
        return
    sha256 = np.frombuffer(bytes.fromhex("".join(str(found[place]) for place in kept)), np.uint8).reshape(-1, 32)
    order = np.argsort(keys[kept, 0], kind="stable")
    write_arrays(index, {"keys": keys[kept][order], "sha256": sha256[order]})
