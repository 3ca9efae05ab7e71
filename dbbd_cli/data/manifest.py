"""The manifest of a run: its samples and the split of each, stored as `splits.json`."""

from __future__ import annotations

import hashlib
import json
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast, overload

from dbbd_cli.core.errors import CheckpointError, DataError
from dbbd_cli.core.files import atomic_file, read_file
from dbbd_cli.core.text import printable

SPLITS = ("train", "val", "test")
_FORMAT = 1
_MAX_BYTES = 512 * 2**20
"""Largest `splits.json`: about three million samples."""
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Sample:
    """A file, URL or scene of a dataset."""

    key: str
    """Path relative to the root (POSIX), or the URL."""
    label: int
    """Index of its class; 0 if samples have none."""
    sha256: str
    split: str
    text: str = ""
    """The text that was read from the file, if that is what is classified; otherwise empty."""


class Samples(Sequence[Sample]):
    """Samples, stored as a list for each of their fields: with a million samples, objects would take gigabytes.

    Args:
        keys: the `key` of each.
        labels: the `label` of each.
        sha256: the `sha256` of each.
        splits: the `split` of each.
        texts: the `text` of each.
    """

    __slots__ = ("keys", "labels", "sha256", "splits", "texts")

    def __init__(
        self,
        keys: Sequence[str],
        labels: Sequence[int],
        sha256: Sequence[str],
        splits: Sequence[str],
        texts: Sequence[str],
    ) -> None:
        self.keys, self.labels, self.sha256, self.splits, self.texts = keys, labels, sha256, splits, texts

    @staticmethod
    def of(samples: Iterable[Sample]) -> Samples:
        """Return the given samples."""
        if isinstance(samples, Samples):
            return samples
        given = list(samples)
        return Samples(
            keys=[sample.key for sample in given],
            labels=[sample.label for sample in given],
            sha256=[sample.sha256 for sample in given],
            splits=[sample.split for sample in given],
            texts=[sample.text for sample in given],
        )

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> Samples: ...
    def __getitem__(self, place: int | slice) -> Sample | Samples:
        if isinstance(place, slice):
            return self._made(lambda column: column[place])
        return Sample(self.keys[place], self.labels[place], self.sha256[place], self.splits[place], self.texts[place])

    def __iter__(self) -> Iterator[Sample]:
        return map(Sample, self.keys, self.labels, self.sha256, self.splits, self.texts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def where(self, *splits: str) -> Samples:
        """Return the samples of some splits, in order."""
        places = [place for place, split in enumerate(self.splits) if split in splits]
        return self._made(lambda column: [column[place] for place in places])

    def _made(self, change: Callable[[Sequence[Any]], Sequence[Any]]) -> Samples:
        """Return samples with the same change of each column."""
        columns = (self.keys, self.labels, self.sha256, self.splits, self.texts)
        return Samples(*map(change, columns))


@dataclass(frozen=True)
class Manifest:
    """The samples of a run, and the split of each."""

    source: str
    classes: tuple[str, ...]
    """Names of the classes; empty for scenes, whose points have classes instead."""
    roots: tuple[str, ...]
    """The folder of each class, or the one of all scenes; empty for URLs and synthetic data."""
    samples: Sequence[Sample]
    """Kept as `Samples`."""
    skipped: tuple[str, ...] = field(default=())
    """Skipped files, with the reason."""
    limited_from: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Number of samples before a limit was applied, for each split it reduced; not stored."""
    is_new: bool = field(default=False, compare=False)
    """Whether this process has just read its files, so that they cannot have changed since; not stored."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", Samples.of(self.samples))

    @property
    def columns(self) -> Samples:
        """The samples, as lists of their fields."""
        return cast("Samples", self.samples)

    def of(self, split: str) -> Samples:
        """Return the samples of a split, in order."""
        if split not in self._of_split:
            self._of_split[split] = self.columns.where(split)
        return self._of_split[split]

    @cached_property
    def _of_split(self) -> dict[str, Samples]:
        return {}

    def counts(self) -> dict[str, int]:
        """Return the number of samples in each split."""
        found = Counter(self.columns.splits)
        return {split: found[split] for split in SPLITS}

    def to_json(self) -> str:
        """Return the content of `splits.json`: one line per sample, so that it stays readable and works with grep.

        Raises:
            DataError: it would be larger than `load` accepts.
        """
        return "".join(self._json())

    def write(self, path: Path) -> None:
        """Write `splits.json`, atomically.

        Raises:
            DataError: it would be larger than `load` accepts.
            OSError: it cannot be written.
        """
        with atomic_file(path) as file:
            for part in self._json():
                file.write(part.encode("ascii"))

    def _json(self) -> Iterator[str]:
        """Yield the content of `splits.json` in parts."""
        head = {
            "format": _FORMAT,
            "source": self.source,
            "classes": list(self.classes),
            "roots": list(self.roots),
            "counts": self.counts(),
            "skipped": list(self.skipped),
        }
        size = 0
        for part in chain([json.dumps(head, indent=1)[:-2] + ',\n "samples": [\n'], self._rows(), ["\n]}\n"]):
            size += len(part)
            if size > _MAX_BYTES:
                raise DataError(
                    f"the list of {len(self.samples):,} samples has more than {_MAX_BYTES:,} bytes",
                    hint="use fewer samples with --set data.sample_per_class=N",
                )
            yield part

    def _rows(self) -> Iterator[str]:
        """Yield the rows of the samples, many at a time, as `json.dumps` would write each."""
        quoted = json.encoder.encode_basestring_ascii
        for first in range(0, len(self.samples), _ROWS_AT_ONCE):
            part = self.columns[first : first + _ROWS_AT_ONCE]
            labels = [f', "label": {label}' for label in part.labels] if self.classes else [""] * len(part)
            texts = [f', "text": {quoted(text)}' if text else "" for text in part.texts]
            columns = (map(quoted, column) for column in (part.keys, part.sha256, part.splits))
            rows = [
                f'{{"path": {key}{label}, "sha256": {sha256}, "split": {split}{text}}}'
                for key, sha256, split, label, text in zip(*columns, labels, texts, strict=True)
            ]
            yield (",\n" if first else "") + ",\n".join(rows)

    def digest(self) -> str:
        """Return the SHA-256 of the manifest."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        hasher = hashlib.sha256()
        for part in self._json():
            hasher.update(part.encode("ascii"))
        return hasher.hexdigest()

    @staticmethod
    def load(path: Path) -> Manifest:
        """Read `splits.json`.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            text = read_file(path, _MAX_BYTES)
            if b"\0" in text[:4096]:  # a sparse file, which may have any size
                raise ValueError("not a text file")
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}, expected {_FORMAT}")
            classes = tuple(map(str, content["classes"]))
            rows = content["samples"]
            samples = Samples(
                keys=[str(row["path"]) for row in rows],
                labels=[int(row["label"]) for row in rows] if classes else [0] * len(rows),
                sha256=[str(row["sha256"]) for row in rows],
                splits=[sys.intern(str(row["split"])) for row in rows],
                texts=[str(row.get("text", "")) for row in rows],
            )
            manifest = Manifest(
                source=str(content["source"]),
                classes=classes,
                roots=tuple(map(str, content["roots"])),
                samples=samples,
                skipped=tuple(map(str, content["skipped"])),
            )
            for key, label, split in zip(samples.keys, samples.labels, samples.splits, strict=True):
                if (classes and not 0 <= label < len(classes)) or split not in SPLITS:
                    raise ValueError(f"sample {key!r} has an unknown class or split")
            # Only a folder of scenes may lack a split: the test split.
            if not {"train", "val"} <= set(samples.splits):
                raise ValueError("a split has no samples")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} is missing: the split of the run is unknown",
                hint="restore the file from a copy of the run folder; a new split would mix training and test samples",
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"{path} is damaged: {printable(str(getattr(error, 'strerror', None) or error)[:200])}",
                hint="restore the file from a copy of the run folder",
            ) from error
        return manifest
