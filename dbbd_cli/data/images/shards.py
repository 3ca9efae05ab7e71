"""Images in tar shards, in the layout of WebDataset, in folders of this machine or behind URLs."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dbbd_cli.core.errors import DataError, DiskError
from dbbd_cli.core.files import read_file, write_text
from dbbd_cli.core.paths import is_url, shown_url
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import printable
from dbbd_cli.data.cache import entry_lock, mark_used
from dbbd_cli.data.candidates import Candidates, Source, check_number_of_classes
from dbbd_cli.data.images.formats import can_read
from dbbd_cli.data.images.processes import index_in_workers
from dbbd_cli.data.images.refs import ImageRefs, Parts
from dbbd_cli.data.images.shard_index import INDEX_FORMAT, Keys, ShardIndex, read_index
from dbbd_cli.data.images.shard_paths import common_folder, places, without_query
from dbbd_cli.data.manifest import SPLITS
from dbbd_cli.data.problems import UNPRINTABLE, shortened, unreadable
from dbbd_cli.data.remote import RemoteFile, download, remote_files

NO_DIGEST = "0" * 64
"""In place of the SHA-256 of an image that cannot be found."""


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        name: its path below the folder that all shards have in common, with forward slashes.
        place: its path or URL.
        file: the file on this machine: itself, or its copy in the cache, which may be missing.
        index: its index in the cache, which may be missing.
        remote: what is behind the URL, if it is one.
    """

    name: str
    place: str
    file: Path
    index: Path
    remote: RemoteFile | None


class Shards:
    """The shards of a data set, which are looked for when they are needed: with its pixels cached, they may be gone.

    Args:
        path: a folder that contains tar files, a tar file, or a pattern of several such as `a-{000..099}.tar`: a path
            of this machine or a URL.
        keys: the keys of `.json` members that hold class and split.
        cache_dir: folder of the cache, where indexes and copies of remote shards are kept.
    """

    def __init__(self, path: str, keys: Keys, cache_dir: Path) -> None:
        self.path = path
        self.keys = keys
        self.cache_dir = cache_dir
        self._found: dict[str, Shard] | None = None

    @property
    def folder(self) -> str:
        """The folder that all shards have in common, a path or URL."""
        return shown_url(common_folder([shard.place for shard in self._shards().values()]))

    def index(self, progress: Progress) -> tuple[dict[str, ShardIndex], list[str]]:
        """Read the index of every shard; shards that the cache has no index of are downloaded and read.

        Returns:
            The indexes by the names of the shards, and the problems of shards that cannot be read.

        Raises:
            DataError: there are no shards, or some cannot be found.
            DiskError: the cache cannot be written.
        """
        shards = self._shards()
        found = {name: read_index(shard.index) for name, shard in shards.items()}
        missing = [shards[name] for name, index in found.items() if index is None]
        problems = []
        if missing:
            self._fetch(missing, progress)
            jobs = [(shard.index, shard.file) for shard in missing]
            with (
                progress.phase("Indexing shards", len(jobs), unit="shards") as bar,
                # An error or Ctrl-C must end the processes immediately; what they have indexed is kept.
                closing(index_in_workers(jobs, self.keys)) as results,
            ):
                for position, problem in results:
                    shard = missing[position]
                    found[shard.name] = None if problem else read_index(shard.index)
                    if found[shard.name] is None:
                        reason = problem or "its index is missing from the cache, or damaged; run the command again"
                        problems.append(f"{printable(shard.name)}: {reason}")
                    bar.advance()
        return {name: index for name, index in found.items() if index is not None}, sorted(problems)

    def locate(self, keys: Sequence[str], progress: Progress) -> ImageRefs:
        """Find images by their keys, as `list_shards` makes them; keys from a stored file are not trusted.

        An image that is no longer in its shard gets a reference that cannot be read, with `NO_DIGEST`.

        Raises:
            DataError: there are no shards, or some cannot be found.
            DiskError: the cache cannot be written.
        """
        indexes, _ = self.index(progress)
        shards = self._shards()
        files = {os.devnull: 0, **{str(shard.file): place for place, shard in enumerate(shards.values(), 1)}}
        sha256: list[str] = []
        names: list[str] = []
        positions = array("q")  # file, offset and size of each image
        # One after the other, as their keys are in the order of the shards: a table of all names would be large.
        for name, group in itertools.groupby(keys, lambda key: _shard_of(key, shards)):
            index = indexes.get(name)
            row_of = {} if index is None else {member: row for row, member in enumerate(index.names)}
            for key in group:
                member = key.split("/", 1)[-1].removeprefix(f"{name}/")
                names.append(f"{shown_url(shards[name].place)}/{member}" if name else printable(key))
                row = row_of.get(member)
                if index is None or row is None:
                    sha256.append(NO_DIGEST)
                    positions.extend((0, 0, 0))
                else:
                    sha256.append(index.sha256[row].tobytes().hex())
                    positions.extend((files[str(shards[name].file)], int(index.offset[row]), int(index.size[row])))
        file, offset, size = np.frombuffer(positions, np.int64).reshape(-1, 3).T.copy()
        parts = Parts(tuple(files), file.astype(np.int32), offset, size)
        return ImageRefs(sha256, names, are_urls=False, parts=parts)

    def locate_here(self, keys: Sequence[str], progress: Progress) -> ImageRefs:
        """As `locate`, but nothing is asked of servers, and shards may be gone: their images then cannot be read.

        Of shards behind URLs, the copies are found that were current when their server was last asked. Nor can anything
        be read if shards would have to be indexed, and the cache cannot be written.
        """
        here = Shards(self.path, self.keys, self.cache_dir)
        try:
            if self.are_remote:
                here._found = self._last_seen()
            return here.locate(keys, progress)
        except (DataError, DiskError, OSError):
            here._found = {}
            return here.locate(keys, progress)

    @property
    def are_remote(self) -> bool:
        """Whether the shards are behind URLs."""
        return is_url(self.path)

    def fetch(self, refs: ImageRefs, progress: Progress) -> None:
        """Download the shards of images unless the cache contains them.

        Raises:
            DataError: one cannot be read.
            DiskError: one cannot be written.
        """
        assert refs.parts is not None
        needed = {refs.parts.files[place] for place in np.unique(refs.parts.file)}
        self._fetch([shard for shard in self._shards().values() if str(shard.file) in needed], progress)

    def _fetch(self, shards: Iterable[Shard], progress: Progress) -> None:
        download([shard.remote for shard in shards if shard.remote], self.cache_dir, progress)

    def _shards(self) -> dict[str, Shard]:
        """The shards by name.

        Raises:
            DataError: there are none, or some cannot be found.
        """
        if self._found is None:
            found = places(self.path)
            start = len(common_folder(found))
            names = [without_query(place)[start:] for place in found]
            count = Counter(names)
            bad = next((name for name in names if UNPRINTABLE.search(name) or count[name] > 1), None)
            if bad is not None:
                why = "has unprintable characters" if UNPRINTABLE.search(bad) else "occurs twice"
                raise DataError(f"data.path: the shard name {printable(bad)} {why}", hint="rename the shard")
            remote = remote_files(found) if self.are_remote else [None] * len(found)
            self._found = dict(zip(names, map(self._shard, names, found, remote), strict=True))
            if self.are_remote:
                self._keep_seen()
        return self._found

    @property
    def _seen(self) -> Path:
        """The file of the cache that lists the copies and indexes of shards behind URLs."""
        digest = hashlib.sha256(json.dumps([self.path, self.keys]).encode()).hexdigest()
        return self.cache_dir / f"remote-{digest[:32]}.json"

    def _keep_seen(self) -> None:
        rows = [(each.name, shown_url(each.place), each.file.name, each.index.name) for each in self._shards().values()]
        with suppress(DiskError, OSError), entry_lock(self._seen):  # it only saves asking again
            write_text(self._seen, json.dumps(rows))

    def _last_seen(self) -> dict[str, Shard]:
        """The shards behind URLs when their server was last asked; none if nothing is known of that."""
        folder = self.cache_dir
        try:
            found = {
                name: Shard(name, place, folder / Path(file).name, folder / Path(index).name, None)
                for name, place, file, index in json.loads(read_file(self._seen))
            }
        except (OSError, ValueError, TypeError):  # missing or damaged
            return {}
        mark_used(self._seen)
        return found

    def _shard(self, name: str, place: str, remote: RemoteFile | None) -> Shard:
        if remote is None:
            file = Path(place)
            try:
                status = file.stat()
            except OSError as error:  # such as a link to a missing file
                raise unreadable(file, "data.path", error) from error
            times = [status.st_mtime_ns, status.st_ctime_ns]  # the second one also if another file takes its place
            identity = [os.path.realpath(file), status.st_ino, status.st_size, *times]
        else:
            file = remote.copy_in(self.cache_dir)
            identity = [file.name]
        # With support for more formats, more members are images.
        made_by = [INDEX_FORMAT, [can_read(each) for each in ("HEIF", "AVIF")], *self.keys]
        digest = hashlib.sha256(json.dumps([identity, made_by]).encode("utf-8", "surrogatepass")).hexdigest()
        return Shard(name, place, file, self.cache_dir / f"shard-{digest[:32]}.arrays", remote)


def list_shards(shards: Shards, progress: Progress) -> Source:
    """List the images of shards.

    Raises:
        DataError: there are no shards, some cannot be found, or they have fewer than two classes or too many.
        DiskError: the cache cannot be written.
    """
    indexes, problems = shards.index(progress)
    names = tuple(sorted({name for index in indexes.values() for name in index.classes}, key=_class_order))
    for shard, index in indexes.items():
        problems += [f"{printable(shard)}: {problem}" for problem in index.problems]
    if len(names) < 2:
        found = f"only the class {names[0]}" if names else "no image with a class"
        raise DataError(
            f"{shown_url(shards.path)} has {found}: a classifier needs at least two classes",
            hint="a sample is an image and its class in a .cls, or in a .json with the key of data.label_column",
            details=shortened(problems),
        )
    check_number_of_classes(
        shown_url(shards.path), names, "check that .cls, or data.label_column of .json, contains classes"
    )
    has_splits = any((index.split >= 0).any() for index in indexes.values())
    label_of = {name: label for label, name in enumerate(names)}
    keys: list[str] = []
    labels: list[int] = []
    splits: list[str | None] = []
    unread: dict[str, int] = {}
    for shard, index in indexes.items():
        label_here, split_names = [label_of[name] for name in index.classes], [*SPLITS, None]
        for member, label, split in zip(index.names, index.label.tolist(), index.split.tolist(), strict=True):
            if has_splits and split < 0:
                problems.append(f"{printable(shard)}: {printable(member)}: has no split, and others have")
            else:
                keys.append(f"{index.classes[label]}/{shard}/{member}")
                labels.append(label_here[label])
                splits.append(split_names[split])
        unread |= {suffix: unread.get(suffix, 0) + count for suffix, count in index.unread.items()}
    ignored = sum(index.ignored for index in indexes.values())
    return Source("shards", names, Candidates(keys, labels, splits), (), problems, ignored, unread, shards)


def _shard_of(key: str, shards: Mapping[str, Shard]) -> str:
    """The name of the shard that a key names, empty if there is none; after its class, a key has shard and member."""
    name, parts = "", iter(key.split("/")[1:])
    for part in parts:
        name = f"{name}/{part}" if name else part
        if name in shards:
            return name
    return ""


def _class_order(name: str) -> tuple[bool, int, str]:
    """Numbers come first, by value: 2 before 10."""
    is_number = name.isascii() and name.isdecimal() and len(name) < 20
    return not is_number, int(name) if is_number else 0, name
