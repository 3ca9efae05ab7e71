"""Drawing a sample and dividing it into splits, and the manifest that records both.

Randomness comes from hashes of (seed, key): a file added to a folder leaves the fate of the others alone as far as
possible, and neither the order of a directory listing nor the Python version matters.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbbd_cli.core.errors import CheckpointError, DataError
from dbbd_cli.core.files import read_file
from dbbd_cli.core.text import counted, printable

SPLITS = ("train", "val", "test")
MANIFEST_FORMAT = 1
MAX_LISTED = 10
MIN_SAMPLES = 3
"""Fewest samples of a class: one for each split."""
_MOST_BYTES = 512 * 2**20
"""Largest `splits.json`: about three million samples."""
ATTEMPTS = 50
"""Draws that are tried until every class is in every split; large groups may need more than one."""


@dataclass(frozen=True)
class Sample:
    """One file, one URL or one scene of a data set."""

    key: str
    """Path below the root (POSIX), or the URL."""
    label: int
    """Its class; 0 where samples have none."""
    sha256: str
    split: str


@dataclass(frozen=True)
class Manifest:
    """Which samples a run was made with, and the split of each."""

    source: str
    classes: tuple[str, ...]
    """The classes of samples; none for scenes, whose points have classes instead."""
    roots: tuple[str, ...]
    """The folder of each class, or the one of all scenes; none for URLs and what is made up."""
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...] = field(default=())
    """Files that were left out, with the reason."""
    limited_from: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Number of samples before a limit was applied, for each split that it reduced; known at creation, not stored."""

    def of(self, split: str) -> list[Sample]:
        """The samples of a split, in the manifest's order."""
        return [sample for sample in self.samples if sample.split == split]

    def counts(self) -> dict[str, int]:
        """Samples in each split."""
        return {split: sum(sample.split == split for sample in self.samples) for split in SPLITS}

    def to_json(self) -> str:
        """One line per sample: 200,000 of them stay readable and can be searched with grep."""
        head = {
            "format": MANIFEST_FORMAT,
            "source": self.source,
            "classes": list(self.classes),
            "roots": list(self.roots),
            "counts": self.counts(),
            "skipped": list(self.skipped),
        }
        rows = ",\n".join(
            json.dumps(
                {"path": s.key, **({"label": s.label} if self.classes else {}), "sha256": s.sha256, "split": s.split}
            )
            for s in self.samples
        )
        text = json.dumps(head, indent=1)[:-2] + ',\n "samples": [\n' + rows + "\n]}\n"
        if len(text) > _MOST_BYTES:
            raise DataError(
                f"the list of {len(self.samples):,} samples takes {len(text):,} bytes, and at most {_MOST_BYTES:,} are "
                "read",
                hint="take fewer with --set data.sample_per_class=N",
            )
        return text

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.to_json().encode("utf-8", "surrogatepass")).hexdigest()

    @staticmethod
    def load(path: Path) -> Manifest:
        """Reads `splits.json`.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            text = read_file(path, _MOST_BYTES)
            if b"\0" in text[:4096]:  # a hole, which may be of any size
                raise ValueError("is no text")
            content = json.loads(text)
            if content["format"] != MANIFEST_FORMAT:
                raise ValueError(f"format {content['format']}, expected {MANIFEST_FORMAT}")
            classes = tuple(map(str, content["classes"]))
            samples = tuple(
                Sample(str(s["path"]), int(s["label"]) if classes else 0, str(s["sha256"]), str(s["split"]))
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
            # A folder of scenes may have no test split; nothing can do without the others.
            if not {"train", "val"} <= {sample.split for sample in samples}:
                raise ValueError("a split has no samples")
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} is missing: the split of the run is not known",
                hint="restore the file from a copy of the run folder; a new split would mix training and test samples",
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"{path} is damaged: {printable(str(getattr(error, 'strerror', None) or error)[:200])}",
                hint="restore the file from a copy of the run folder",
            ) from error
        return manifest


def _rank(seed: int, purpose: str, text: str) -> str:
    return hashlib.sha256(f"{seed}:{purpose}:{text}".encode("utf-8", "surrogatepass")).hexdigest()


def draw_sample(keys: Sequence[str], labels: Sequence[int], per_class: int | None, seed: int) -> list[int]:
    """Draws at most `per_class` samples of each class; returns their positions, in order."""
    if per_class is None:
        return list(range(len(keys)))
    by_class: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    chosen: list[int] = []
    for positions in by_class.values():
        if len(positions) > per_class:
            positions = sorted(positions, key=lambda p: _rank(seed, "sample", keys[p]))[:per_class]
        chosen += positions
    return sorted(chosen)


def _quota(count: int, shares: Sequence[float], label: int) -> list[int]:
    """Whole numbers near `count` times each share that sum to `count`, each at least 1.

    What rounding down leaves goes to the largest remainders; among equal ones, to another split in the next class.
    """
    exact = [round(count * share, 6) for share in shares]
    quota = [int(value) for value in exact]
    by_remainder = sorted(range(3), key=lambda s: (quota[s] - exact[s], (s - 1 - label) % 3))
    for s in by_remainder[: count - sum(quota)]:
        quota[s] += 1
    for s in range(3):
        if quota[s] == 0:
            quota[s] += 1
            quota[quota.index(max(quota))] -= 1
    return quota


def check_class_sizes(labels: Sequence[int], classes: Sequence[str]) -> None:
    """Checks that each class can be in every split.

    Args:
        labels: class of each sample.
        classes: names of the classes.

    Raises:
        DataError: a class has fewer than three samples.
    """
    counts = Counter(labels)
    small = [label for label in range(len(classes)) if counts[label] < MIN_SAMPLES]
    if not small:
        return
    details = [f"{classes[label]}: {counted(counts[label], 'sample')}" for label in small[:MAX_LISTED]]
    if len(small) > MAX_LISTED:
        details.append(f"… and {counted(len(small) - MAX_LISTED, 'more class')}")
    number = f"{len(small):,} of {counted(len(classes), 'class')} {'is' if len(small) == 1 else 'are'}"
    raise DataError(
        f"{number} too small to be in the training, validation and test split",
        details=details,
        hint=f"give each class at least {MIN_SAMPLES} samples, or leave it out; if these are not classes at all, "
        "choose another column or folder",
    )


def assign_splits(
    keys: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[Hashable],
    classes: Sequence[str],
    shares: Sequence[float],
    seed: int,
) -> list[str]:
    """Divides samples into train, val and test, class by class, keeping each group in one split.

    Groups are taken from large to small, in hash order among equals. Each goes to a split drawn with probability
    in proportion to the places left there, among the splits in which all of it still fits; where it fits in none,
    to the split with most places left. Groups of one therefore fill the quotas exactly. Where a class is then missing
    from a split, the draw is made again, no longer asking whether groups fit.

    Args:
        keys: name of each sample.
        labels: class of each sample.
        groups: samples with equal groups stay together.
        classes: names of the classes, for errors.
        shares: shares of train, val and test.
        seed: seed of the draw.

    Raises:
        DataError: a class is too small to be in every split.
    """
    check_class_sizes(labels, classes)
    groups_of = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    possible = min(groups_of.values(), default=0) >= len(SPLITS)
    for attempt in range(ATTEMPTS if possible else 1):
        splits = _draw_splits(keys, labels, groups, shares, seed, attempt)
        present = set(zip(labels, splits, strict=True))
        absent = [
            f"{classes[label]}: none in {split}"
            for label in range(len(classes))
            for split in SPLITS
            if (label, split) not in present
        ]
        if not absent:
            return splits
    raise DataError(
        "after keeping together what belongs together, a class is missing from a split",
        details=absent[:MAX_LISTED],
        hint="samples with the same content, and with data.split.group=host those of the same host, stay in one split: "
        "give more that differ",
    )


def _draw_splits(
    keys: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[Hashable],
    shares: Sequence[float],
    seed: int,
    attempt: int,
) -> list[str]:
    left = {label: _quota(count, shares, label) for label, count in Counter(labels).items()}
    members: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    ranks = {group: _rank(seed, "split", keys[positions[0]]) for group, positions in members.items()}
    splits = [""] * len(keys)
    for group in sorted(members, key=lambda g: (-len(members[g]), ranks[g])):
        need = Counter(labels[position] for position in members[group])
        places = [sum(left[label][s] for label in need) for s in range(3)]
        weights = [places[s] if all(left[label][s] >= n for label, n in need.items()) else 0 for s in range(3)]
        if attempt:  # groups so large that fitting was of no use
            weights = [max(number, 0) for number in places]
        if sum(weights) == 0:
            chosen = max(range(3), key=lambda s: places[s])
        else:
            # The hash is the random number: 64 bits of it, as a fraction of 1.
            ticket = int(_rank(seed, f"draw {attempt}", ranks[group])[:16], 16) / 2**64 * sum(weights)
            chosen = 0 if ticket < weights[0] else 1 if ticket < weights[0] + weights[1] else 2
        for label, n in need.items():
            left[label][chosen] -= n
        for position in members[group]:
            splits[position] = SPLITS[chosen]
    return splits
