"""The index of a tar shard: where its images lie, what their contents are, and which class each has.

A shard is read once, header by header, and never extracted: names in it are only names. Samples follow the rules of
WebDataset: the members whose paths are equal up to the first dot of the file name belong together, and what follows
this dot is their suffix. A sample is an image with a class, in `.cls` or in `.json`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dbbd_cli.core.compat import forget_members
from dbbd_cli.core.files import require_regular
from dbbd_cli.core.text import printable
from dbbd_cli.data.array_cache import Arrays, cached_arrays, read_arrays
from dbbd_cli.data.folder_entries import is_system_entry
from dbbd_cli.data.images.formats import FORMAT_OF_SUFFIX, is_image_name, is_unread_name
from dbbd_cli.data.images.refs import MAX_FILE_BYTES
from dbbd_cli.data.manifest import SPLITS
from dbbd_cli.data.problems import UNPRINTABLE, short
from dbbd_cli.data.splitting import SPLIT_OF

INDEX_FORMAT = 2
MAX_MEMBERS = 1_000_000
"""Limit on files in a shard, whose names are kept in memory while it is read."""
_MAX_HEADER = 1 << 20
"""Limit on what extends a header, such as a long name; tarfile reads it into memory, whatever its size."""
_MAX_CLASS, _MAX_JSON = 4096, 1 << 20
_MAX_NAME = 1000
_CHUNK = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_EXTENDING = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
"""Types of what extends a header."""
_COLUMNS = {"offset", "size", "sha256", "label", "split", "text"}


class ShardIndex(NamedTuple):
    """The N images of a shard, in the order of the file, and what else was found in it.

    Attributes:
        names: the name of each image in the shard.
        offset: number of bytes before each, `(N,)`, int64.
        size: number of bytes of each, `(N,)`, int64.
        sha256: `(N, 32)`, uint8.
        classes: the classes of the shard.
        label: position of each image's class among them, `(N,)`, int32.
        split: position of its split in `SPLITS`, -1 if the shard does not say, `(N,)`, int8.
        problems: samples that cannot be used, one line each.
        ignored: number of members that belong to no sample.
        unread: number of images in unsupported formats by suffix.
    """

    names: list[str]
    offset: np.ndarray
    size: np.ndarray
    sha256: np.ndarray
    classes: list[str]
    label: np.ndarray
    split: np.ndarray
    problems: list[str]
    ignored: int
    unread: dict[str, int]


class Keys(NamedTuple):
    """The keys of `.json` members that hold class and split; None for the split if it does not count."""

    label: str
    split: str | None


class ShardError(ValueError):
    """A file is not a tar shard; the message says why, in plain words."""


def read_index(path: Path) -> ShardIndex | None:
    """Return an index from the cache, None if it is not there or damaged."""
    arrays = read_arrays(path, _is_usable)
    if arrays is None:
        return None
    columns: dict[str, Any] = {name: array for name, array in arrays.items() if name != "text"}
    return ShardIndex(**json.loads(arrays["text"].tobytes()), **columns)


def write_index(path: Path, shard: Path, keys: Keys) -> None:
    """Index a shard, unless the cache contains its index.

    Args:
        path: the index; its name must identify the content of the shard and the keys.
        shard: the tar file.
        keys: where `.json` members have class and split.

    Raises:
        ShardError: the file is not a shard.
        OSError: it cannot be read.
        DiskError: the index cannot be written.
    """
    # To make room for an index, which is small, the copies of shards that are about to be read could be removed.
    cached_arrays(path, lambda: _arrays(index_shard(shard, keys)), _is_usable, makes_room=False)


def _arrays(index: ShardIndex) -> Arrays:
    columns = index._asdict()
    text = {name: columns.pop(name) for name in ("names", "classes", "problems", "ignored", "unread")}
    return {**columns, "text": np.frombuffer(json.dumps(text).encode(), np.uint8)}


def _is_usable(arrays: Arrays) -> bool:
    return arrays.keys() == _COLUMNS


@dataclass(slots=True)
class _Sample:
    """The members of a shard that belong together.

    Attributes:
        suffixes: the suffix of each.
        images: name, offset, size and SHA-256 of those that are images.
        label: the class according to `.cls`, empty if it cannot be used; None if there is no such member.
        json_label: the class according to `.json`.
        split: the split according to `.json`.
        json_problem: why `.json` says neither; it matters only if there is no `.cls`.
        problem: why the sample cannot be used; empty if nothing has been found yet.
    """

    suffixes: list[str] = field(default_factory=list)
    images: list[tuple[str, int, int, bytes]] = field(default_factory=list)
    label: str | None = None
    json_label: str | None = None
    split: str | None = None
    json_problem: str = ""
    problem: str = ""


def index_shard(shard: Path, keys: Keys) -> ShardIndex:
    """Read a shard from beginning to end.

    Args:
        shard: the tar file.
        keys: where `.json` members have class and split.

    Raises:
        ShardError: the file is not a shard.
        OSError: it cannot be read.
    """
    samples: dict[str, _Sample] = {}
    problems: list[str] = []
    ignored = 0
    require_regular(shard)
    with shard.open("rb", buffering=_CHUNK) as file:
        for member in _members(file, problems):
            name = member.name.removeprefix("./")
            if any(is_system_entry(part) for part in name.split("/") if part not in (".", "..", "")):
                continue
            problem = _problem_of_name(name)
            stem, suffix = _split_name(name)
            if problem or not stem:
                problems += [f"{printable(short(name))}: {problem}"] if problem else []
                ignored += not problem
                continue
            sample = samples.setdefault(stem, _Sample())
            sample.suffixes.append(suffix)
            if member.isreg() and not member.issparse():
                _add(sample, name, suffix, member, file, keys)
            else:
                sample.problem = f".{suffix} is not a regular file"
    return _index(samples, problems, ignored)


def _members(file: BinaryIO, problems: list[str]) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar that are not folders; where the file is damaged, report that and stop."""
    file.seek(0)
    head = file.read(8)
    if compressed := next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None):
        raise ShardError(f"is compressed by {compressed}; decompress it: samples are read from any place of a shard")
    file.seek(0)
    tar, end, count, size = None, 0, 0, os.fstat(file.fileno()).st_size
    try:
        tar = tarfile.TarFile(fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
        while (member := tar.next()) is not None:
            forget_members(tar)
            has_content = member.isreg() and not member.issparse()
            if member.size < 0 or tar.offset <= end or (has_content and member.offset_data + member.size > size):
                break
            end, count = tar.offset, count + 1
            if count > MAX_MEMBERS:
                problems.append(f"has more than {MAX_MEMBERS:,} members; the others were left out: make smaller shards")
                return
            if not member.isdir():
                yield member
        if member is None and _has_end(file, tar.offset):
            if not _is_empty(file):
                problems.append(f"has more after its end, byte {end:,}, as if tar files were joined; it was left out")
            return
    except OSError:
        raise
    except Exception as error:  # tarfile raises anything on damaged headers: ValueError, RecursionError, IndexError
        if tar is None:
            raise ShardError("is empty" if not head else "is not a tar file, or is damaged") from error
    problems.append(f"is damaged or truncated after byte {end:,}; what follows was left out")


def _has_end(file: BinaryIO, offset: int) -> bool:
    """Whether a tar ends where its last member does: with a block of zeros, without which it was truncated."""
    file.seek(offset)
    return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _is_empty(file: BinaryIO) -> bool:
    """Whether only zeros follow in a file."""
    return all(chunk.count(0) == len(chunk) for chunk in iter(lambda: file.read(_CHUNK), b""))


class _Header(tarfile.TarInfo):
    """A header whose size can be relied on: tarfile would go backwards, or read gigabytes into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENDING and header.size > _MAX_HEADER):
            raise tarfile.HeaderError("bad size")
        return header


def _problem_of_name(name: str) -> str:
    if UNPRINTABLE.search(name):
        return "its name has unprintable characters"
    if len(name) > _MAX_NAME:
        return f"its name has over {_MAX_NAME:,} characters"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "its name is not a relative path, such as a/b.png"
    return ""


def _split_name(name: str) -> tuple[str, str]:
    """What the members of a sample share, and the suffix in lower case; both are empty if the name has none."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and suffix else ("", "")


def _add(sample: _Sample, name: str, suffix: str, member: tarfile.TarInfo, file: BinaryIO, keys: Keys) -> None:
    """Add a member to its sample."""
    if suffix == "cls":
        found = _content(member, file, _MAX_CLASS)
        sample.label = _class_of(found.decode("utf-8-sig", "surrogateescape")) if found is not None else ""
    elif suffix == "json":
        found = _content(member, file, _MAX_JSON)
        _add_json(sample, found, keys)
    elif f".{suffix}" in FORMAT_OF_SUFFIX and is_image_name(f"x.{suffix}"):
        if member.size > MAX_FILE_BYTES:
            sample.problem = f"the image has {member.size:,} bytes (limit {MAX_FILE_BYTES:,})"
        else:
            sample.images.append((name, member.offset_data, member.size, _digest(member, file)))


def _content(member: tarfile.TarInfo, file: BinaryIO, limit: int) -> bytes | None:
    """The content of a member; None if it is larger than the limit."""
    if member.size > limit:
        return None
    file.seek(member.offset_data)
    return file.read(member.size)


def _digest(member: tarfile.TarInfo, file: BinaryIO) -> bytes:
    hasher, left = hashlib.sha256(), member.size
    file.seek(member.offset_data)
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise OSError(errno.EIO, "it has become shorter while it was read")
        hasher.update(chunk)
        left -= len(chunk)
    return hasher.digest()


def _class_of(text: str) -> str:
    """The class that a text names; empty if it names none."""
    name = text.strip()
    return "" if len(name) > _MAX_CLASS or UNPRINTABLE.search(name) else name


def _add_json(sample: _Sample, data: bytes | None, keys: Keys) -> None:
    if data is None:
        sample.json_problem = f"its .json has over {_MAX_JSON:,} bytes"
        return
    content: Any = None
    with suppress(ValueError, RecursionError):
        content = json.loads(data)
    if not isinstance(content, dict):
        sample.json_problem = "its .json is not a JSON object"
        return
    label = content.get(keys.label)
    if isinstance(label, (str, int)) and not isinstance(label, bool):
        with suppress(ValueError):  # a number of more digits than Python converts
            sample.json_label = _class_of(str(label))
    elif label is not None:
        sample.json_label = ""
    split = None if keys.split is None else content.get(keys.split)
    if split is not None:
        sample.split = SPLIT_OF.get(split.lower(), "") if isinstance(split, str) else ""
        if not sample.split:
            sample.problem = f"its split is {printable(short(str(split)[:300]))}; expected train, val or test"


def _index(samples: dict[str, _Sample], problems: list[str], ignored: int) -> ShardIndex:
    unread: Counter[str] = Counter()
    rows, labels, splits = [], [], []
    classes: dict[str, int] = {}
    for stem, sample in samples.items():
        if not sample.images and not _was_meant_to_be_one(sample):
            other = next((suffix for suffix in sample.suffixes if is_unread_name(f"x.{suffix}")), None)
            if other is None:
                ignored += len(sample.suffixes)
            else:
                unread[f".{other}"] += 1
            continue
        if problem := _problem(sample):
            problems.append(f"{printable(short(stem))}: {problem}")
            continue
        name = sample.label if sample.label is not None else sample.json_label
        assert name is not None
        rows.append(sample.images[0])
        labels.append(classes.setdefault(name, len(classes)))
        splits.append(-1 if sample.split is None else SPLITS.index(sample.split))
    digests = b"".join(digest for *_, digest in rows)
    return ShardIndex(
        names=[name for name, *_ in rows],
        offset=np.array([offset for _, offset, _, _ in rows], np.int64),
        size=np.array([size for _, _, size, _ in rows], np.int64),
        sha256=np.frombuffer(digests, np.uint8).reshape(len(rows), 32),
        classes=list(classes),
        label=np.array(labels, np.int32),
        split=np.array(splits, np.int8),
        problems=problems,
        ignored=ignored,
        unread=dict(unread),
    )


def _was_meant_to_be_one(sample: _Sample) -> bool:
    """Whether members without an image that can be used are a sample with a problem, rather than something else."""
    if any(is_unread_name(f"x.{suffix}") for suffix in sample.suffixes):
        return False
    return "cls" in sample.suffixes or any(is_image_name(f"x.{suffix}") for suffix in sample.suffixes)


def _problem(sample: _Sample) -> str:
    """Why a sample cannot be used; empty if it can."""
    if sample.problem:
        return sample.problem
    if twice := next((suffix for suffix in sample.suffixes if sample.suffixes.count(suffix) > 1), ""):
        return f"has {sample.suffixes.count(twice)} members {_listed([twice])}"
    if not sample.images:
        named = [suffix for suffix in sample.suffixes if is_image_name(f"x.{suffix}")]
        if named:
            return f"has no image: what follows the first dot of a name is its suffix, {_listed(named[:1])}; rename it"
        return f"has no image, only {_listed(sample.suffixes)}"
    if len(sample.images) > 1:
        return f"has {len(sample.images)} images: {_listed([_split_name(name)[1] for name, *_ in sample.images])}"
    name = sample.label if sample.label is not None else sample.json_label
    if name is None:
        return sample.json_problem or "has no class: there is no .cls, and no .json with the key of data.label_column"
    if not name:
        return "its class is empty, too long, not a text, or has unprintable characters"
    if "/" in name:  # the first slash of a key ends the name of its class
        return f"its class, {printable(short(name))}, has a slash"
    return ""


def _listed(suffixes: Sequence[str]) -> str:
    return printable(short(", ".join(f".{suffix}" for suffix in suffixes)))
