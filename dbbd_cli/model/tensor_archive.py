"""The ZIP archive that `torch.save` writes, read strictly: whoever reads it after us shall find the same in it."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from typing import IO

MAX_DIRECTORY_BYTES = 1 << 23
"""Largest list of entries that is read; an entry takes about 100 bytes."""

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_DAMAGED = "is damaged: it is no ZIP archive as torch.save writes one"


def read_archive(file: IO[bytes], max_pickle_bytes: int) -> tuple[bytes, dict[str, int]]:
    """The pickle in an archive, and the size in bytes of each storage.

    Raises:
        ValueError: the archive is not of the kind that torch.save writes, or is damaged; the message says which.
    """
    end = _check_end(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            root = _check_names(entries)
            _check_places(file, entries, end)
            by_name = {entry.filename.removeprefix(f"{root}/"): entry for entry in entries}
            order = by_name.get("byteorder")
            if order is not None and (order.file_size > 6 or archive.read(order) not in (b"little", b"big")):
                raise ValueError(_DAMAGED)
            if by_name["data.pkl"].file_size > max_pickle_bytes:
                raise ValueError(f"has a pickle of {by_name['data.pkl'].file_size:,} bytes, and no file of tensors has")
            pickle = archive.read(by_name["data.pkl"])
    # NotImplementedError is zipfile's word for an entry of a later version of ZIP, or with patches in it.
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, EOFError, struct.error) as error:
        raise ValueError(_DAMAGED) from error
    return pickle, {
        name.removeprefix("data/"): entry.file_size for name, entry in by_name.items() if name.startswith("data/")
    }


def _check_end(file: IO[bytes]) -> int:
    """Where the list of entries begins. It must end where the end records begin, and the file with these."""
    size = file.seek(0, 2)
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > len(tail):
        raise ValueError("is truncated: its list of entries is missing")
    _, disk, first_disk, _, _, length, offset, comment = _END.unpack_from(tail, place)
    if place + _END.size + comment != len(tail) or disk or first_disk:
        raise ValueError(_DAMAGED)
    end = start + place
    if tail[max(0, place - _LOCATOR_64.size) : place].startswith(b"PK\x06\x07"):
        _, _, end, _ = _LOCATOR_64.unpack_from(tail, place - _LOCATOR_64.size)
        if end != start + place - _LOCATOR_64.size - _END_64.size:
            raise ValueError(_DAMAGED)
        file.seek(end)
        *_, length, offset = _END_64.unpack(file.read(_END_64.size))
    if offset + length != end or length > MAX_DIRECTORY_BYTES:
        raise ValueError(_DAMAGED)
    return int(offset)


def _check_names(entries: Sequence[zipfile.ZipInfo]) -> str:
    """The folder that all entries lie in; no two have the same name, whatever the capitals."""
    names = [entry.filename for entry in entries]
    root = names[0].partition("/")[0] if names else ""
    for entry in entries:
        parts = entry.filename.split("/")
        if entry.orig_filename != entry.filename or "\\" in entry.filename or not {"", ".", ".."}.isdisjoint(parts):
            raise ValueError("has an entry whose name leads out of the archive")
        if parts[0] != root:
            raise ValueError(_DAMAGED)
        if parts[1:2] == ["code"] or parts[1:] == ["constants.pkl"]:
            raise ValueError("is a TorchScript archive, which is a program; save the state dict instead")
    if len({name.lower() for name in names}) != len(names):
        raise ValueError("has several entries of one name")
    if [name for name in names if name.lower().endswith("data.pkl")] != [f"{root}/data.pkl"]:
        raise ValueError("does not have exactly one data.pkl")
    return root


def _check_places(file: IO[bytes], entries: Sequence[zipfile.ZipInfo], end: int) -> None:
    """Each entry lies, as it is, between the one before and the one after it."""
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    following = [*(entry.header_offset for entry in ordered[1:]), end]
    if ordered[0].header_offset != 0:
        raise ValueError(_DAMAGED)
    for entry, limit in zip(ordered, following, strict=True):
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError("has an entry that is compressed or encrypted, which torch.save never writes")
        file.seek(entry.header_offset)
        signature, *_, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
        name = file.read(name_length)
        if signature != b"PK\x03\x04" or name != entry.orig_filename.encode("utf-8"):
            raise ValueError(_DAMAGED)
        if entry.header_offset + _LOCAL.size + name_length + extra_length + entry.file_size > limit:
            raise ValueError("has entries that overlap")
