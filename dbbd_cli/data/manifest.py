"""The manifest of a run: its samples and the split of each, stored as `splits.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbbd_cli.core.errors import CheckpointError, DataError
from dbbd_cli.core.files import read_file
from dbbd_cli.core.text import printable

SPLITS = ("train", "val", "test")
_FORMAT = 1
_MAX_BYTES = 512 * 2**20
"""Largest `splits.json`: about three million samples."""


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


@dataclass(frozen=True)
class Manifest:
    """The samples of a run, and the split of each."""

    source: str
    classes: tuple[str, ...]
    """Names of the classes; empty for scenes, whose points have classes instead."""
    roots: tuple[str, ...]
    """The folder of each class, or the one of all scenes; empty for URLs and synthetic data."""
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...] = field(default=())
    """Skipped files, with the reason."""
    limited_from: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Number of samples before a limit was applied, for each split it reduced; not stored."""

    def of(self, split: str) -> list[Sample]:
        """Return the samples of a split, in order."""
        return [sample for sample in self.samples if sample.split == split]

    def counts(self) -> dict[str, int]:
        """Return the number of samples in each split."""
        return {split: sum(sample.split == split for sample in self.samples) for split in SPLITS}

    def to_json(self) -> str:
        """Return the content of `splits.json`: one line per sample, so that it stays readable and works with grep.

        Raises:
            DataError: it would be larger than `load` accepts.
        """
        head = {
            "format": _FORMAT,
            "source": self.source,
            "classes": list(self.classes),
            "roots": list(self.roots),
            "counts": self.counts(),
            "skipped": list(self.skipped),
        }
        rows = ",\n".join(
            json.dumps(
                {
                    "path": s.key,
                    **({"label": s.label} if self.classes else {}),
                    "sha256": s.sha256,
                    "split": s.split,
                    **({"text": s.text} if s.text else {}),
                }
            )
            for s in self.samples
        )
        text = json.dumps(head, indent=1)[:-2] + ',\n "samples": [\n' + rows + "\n]}\n"
        if len(text) > _MAX_BYTES:
            raise DataError(
                f"the list of {len(self.samples):,} samples has {len(text):,} bytes (limit {_MAX_BYTES:,})",
                hint="use fewer samples with --set data.sample_per_class=N",
            )
        return text

    def digest(self) -> str:
        """Return the SHA-256 of the manifest."""
        return hashlib.sha256(self.to_json().encode("utf-8", "surrogatepass")).hexdigest()

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
            samples = tuple(
                Sample(
                    key=str(s["path"]),
                    label=int(s["label"]) if classes else 0,
                    sha256=str(s["sha256"]),
                    split=str(s["split"]),
                    text=str(s.get("text", "")),
                )
                for s in content["samples"]
            )
            manifest = Manifest(
                source=str(content["source"]),
                classes=classes,
                roots=tuple(map(str, content["roots"])),
                samples=samples,
                skipped=tuple(map(str, content["skipped"])),
            )
            for sample in samples:
                if (classes and not 0 <= sample.label < len(classes)) or sample.split not in SPLITS:
                    raise ValueError(f"sample {sample.key!r} has an unknown class or split")
            # Only a folder of scenes may lack a split: the test split.
            if not {"train", "val"} <= {sample.split for sample in samples}:
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
