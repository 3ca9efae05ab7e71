"""Drawing a sample of a dataset, and dividing it into training, validation and test splits.

Randomness comes from hashes of (seed, key): adding a file changes the split of as few others as possible, and neither
the order of a directory listing nor the Python version matters.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby

import numpy as np

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.text import counted
from dbbd_cli.data.manifest import SPLITS

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""The split that a data set means by a word in lower case."""
_MAX_LISTED = 10
_MIN_SAMPLES = 3
"""Minimum number of samples of a class: one for each split."""
_MAX_DRAWS = 50
"""Maximum number of draws until every class is in every split; large groups may need more than one."""


def draw_sample(
    keys: Sequence[str], labels: Sequence[int], per_class: int, seed: int, splits: Sequence[str | None] = ()
) -> list[int]:
    """Draw at most `per_class` samples of each class; return their positions, in order.

    With `splits`, the samples of a class are drawn from each split in proportion, at least one.
    """
    by_class: dict[Hashable, list[int]] = {}
    for position, group in enumerate(zip(labels, splits, strict=True) if splits else labels):
        by_class.setdefault(group, []).append(position)
    size = Counter(labels)
    chosen: list[int] = []
    for positions in by_class.values():
        most = max(1, round(per_class * len(positions) / size[labels[positions[0]]])) if splits else per_class
        if len(positions) > most:
            positions = sorted(positions, key=lambda p: _rank(seed, "sample", keys[p]))[:most]
        chosen += positions
    return sorted(chosen)


def check_class_sizes(labels: Sequence[int], classes: Sequence[str]) -> None:
    """Check that each class can be in every split.

    Args:
        labels: class of each sample.
        classes: names of the classes.

    Raises:
        DataError: a class has fewer than three samples.
    """
    counts = Counter(labels)
    small = [label for label in range(len(classes)) if counts[label] < _MIN_SAMPLES]
    if not small:
        return
    details = [f"{classes[label]}: {counted(counts[label], 'sample')}" for label in small[:_MAX_LISTED]]
    if len(small) > _MAX_LISTED:
        details.append(f"… and {counted(len(small) - _MAX_LISTED, 'more class')}")
    number = f"{len(small):,} of {counted(len(classes), 'class')} {'is' if len(small) == 1 else 'are'}"
    raise DataError(
        f"{number} too small to be in the training, validation and test split",
        details=details,
        hint=f"give each class at least {_MIN_SAMPLES} samples, or leave it out; if these are not classes at all, "
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
    """Divide samples into train, val and test, class by class, keeping each group in one split.

    Groups are assigned from large to small, ties in hash order. Each goes to a split drawn with probability
    proportional to the places left there, among the splits in which the whole group fits; if it fits in none, to the
    split with the most places left. Groups of one therefore fill the quotas exactly. If a class is then missing from a
    split, the draw is repeated, regardless of whether groups fit.

    Args:
        keys: name of each sample.
        labels: class of each sample.
        groups: group of each sample; samples of a group stay together.
        classes: names of the classes, for errors.
        shares: shares of train, val and test.
        seed: seed of the draw.

    Raises:
        DataError: a class is too small to be in every split.
    """
    check_class_sizes(labels, classes)
    all_differ = len(set(groups)) == len(groups)
    groups_of = Counter(labels if all_differ else [label for label, _ in set(zip(labels, groups, strict=True))])
    possible = min(groups_of.values(), default=0) >= len(SPLITS)
    for attempt in range(_MAX_DRAWS if possible else 1):
        splits = _draw_splits(keys, labels, groups, shares, seed, attempt)
        absent = _absent(labels, splits, classes)
        if not absent:
            return splits
    raise DataError(
        "after keeping related samples together, a class is missing from a split",
        details=absent[:_MAX_LISTED],
        hint="samples with the same content, and with data.split.group=host those of the same host, stay in one split: "
        "add more distinct samples",
    )


def check_splits(labels: Sequence[int], splits: Sequence[str], classes: Sequence[str]) -> None:
    """Check that each class is in each of the splits that a source has chosen.

    Raises:
        DataError: one is not.
    """
    if absent := _absent(labels, splits, classes):
        raise DataError(
            "a class is missing from a split of the data set",
            details=absent[:_MAX_LISTED],
            hint="each split needs samples of each class; --set data.split_column=null lets dbbd divide them instead",
        )


def _absent(labels: Sequence[int], splits: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The splits that lack a class, each in words."""
    present = set(zip(labels, splits, strict=True))
    return [
        f"{classes[label]}: none in {split}"
        for label in range(len(classes))
        for split in SPLITS
        if (label, split) not in present
    ]


def _draw_splits(
    keys: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[Hashable],
    shares: Sequence[float],
    seed: int,
    attempt: int,
) -> list[str]:
    left = {label: _quota(count, shares, label) for label, count in Counter(labels).items()}
    splits = [""] * len(keys)
    ones, several = _members(groups)
    large = sorted(several, key=lambda begin: -len(several[begin]))
    for _, begins in groupby(large, key=lambda begin: len(several[begin])):
        for begin, draw in _drawn(keys, list(begins), seed, attempt):
            need = Counter(labels[position] for position in several[begin])
            places = [sum(left[label][s] for label in need) for s in range(3)]
            weights = [places[s] if all(left[label][s] >= n for label, n in need.items()) else 0 for s in range(3)]
            if attempt:  # the groups are too large to all fit
                weights = [max(number, 0) for number in places]
            chosen = _chosen(weights, places, draw)
            for label, n in need.items():
                left[label][chosen] -= n
            for position in several[begin]:
                splits[position] = SPLITS[chosen]
    for position, draw in _drawn(keys, ones, seed, attempt):
        places = left[labels[position]]
        chosen = _chosen(places if min(places) >= 0 else [max(number, 0) for number in places], places, draw)
        places[chosen] -= 1
        splits[position] = SPLITS[chosen]
    return splits


def _members(groups: Sequence[Hashable]) -> tuple[Sequence[int], dict[int, list[int]]]:
    """The positions of groups of one, in order; and those of each other group, by its first position."""
    if len(set(groups)) == len(groups):
        return range(len(groups)), {}
    first: dict[Hashable, int] = {}
    several: dict[int, list[int]] = {}  # only these groups get a list: there may be a million groups of one
    for position, group in enumerate(groups):
        begin = first.setdefault(group, position)
        if begin != position:
            several.setdefault(begin, [begin]).append(position)
    return [begin for begin in first.values() if begin not in several], several


def _drawn(keys: Sequence[str], positions: Sequence[int], seed: int, attempt: int) -> Iterator[tuple[int, float]]:
    """Yield positions in hash order of their keys, each with a random number in [0, 1)."""
    sha256 = hashlib.sha256
    before = f"{seed}:split:".encode()
    ranks = [sha256(before + keys[position].encode("utf-8", "surrogatepass")).digest() for position in positions]
    order = _first_64_bits(ranks).argsort(kind="stable")
    before = f"{seed}:draw {attempt}:".encode()
    # The hash is the random number: 64 bits of it, as a fraction of 1.
    numbers = _first_64_bits([sha256(before + rank.hex().encode()).digest() for rank in ranks]) / 2.0**64
    return zip(np.asarray(positions, np.int64)[order].tolist(), numbers[order].tolist(), strict=True)


def _first_64_bits(digests: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), ">u8")[::4].astype(np.uint64)


def _chosen(weights: Sequence[int], places: Sequence[int], draw: float) -> int:
    """Draw one of three splits with probability proportional to its weight; without weights, that with most places."""
    total = weights[0] + weights[1] + weights[2]
    if total == 0:
        return max(range(3), key=lambda s: places[s])
    ticket = draw * total
    return 0 if ticket < weights[0] else 1 if ticket < weights[0] + weights[1] else 2


def _quota(count: int, shares: Sequence[float], label: int) -> list[int]:
    """Return whole numbers close to `count` times each share, each at least 1, that sum to `count`.

    The remainder of rounding down goes to the largest fractions; ties go to a different split for the next class.
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


def _rank(seed: int, purpose: str, text: str) -> str:
    return hashlib.sha256(f"{seed}:{purpose}:{text}".encode("utf-8", "surrogatepass")).hexdigest()
