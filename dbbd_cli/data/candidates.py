"""Possible samples of a dataset of classes: draw some of them, report what is wrong with them, divide the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted, printable
from dbbd_cli.data.manifest import Manifest, Samples
from dbbd_cli.data.problems import shortened
from dbbd_cli.data.splitting import assign_splits, check_class_sizes, check_splits, draw_sample
from dbbd_cli.data.urls.cleaning import host_of

if TYPE_CHECKING:
    from dbbd_cli.data.images.shards import Shards

MAX_CLASSES = 10_000
"""Limit on classes: an evaluation counts every pair. A table column that does not hold classes has far more values."""
MAX_LISTED = 50
"""Problems that an error lists; the others are counted."""
_MAX_NAMED = 8
"""Classes that a message names; the others are counted."""

OnError = Literal["fail", "skip"]


class Candidate(NamedTuple):
    """A possible sample.

    Attributes:
        key: "class/path/within/class.png" with forward slashes, "class/shard.tar/name/in/it.png", or the URL.
        label: position of its class in `Source.classes`.
        split: train, val or test if the source says so, otherwise None.
    """

    key: str
    label: int
    split: str | None = None


class Candidates(Sequence[Candidate]):
    """Possible samples, stored as a list for each of their fields: making a million objects takes seconds.

    Args:
        keys: the `key` of each.
        labels: the `label` of each.
        splits: the `split` of each; None if the source has none.
    """

    __slots__ = ("keys", "labels", "splits")

    def __init__(self, keys: Sequence[str], labels: Sequence[int], splits: Sequence[str | None] | None = None) -> None:
        self.keys, self.labels = keys, labels
        self.splits = [None] * len(keys) if splits is None else splits

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> Candidates: ...
    def __getitem__(self, place: int | slice) -> Candidate | Candidates:
        if isinstance(place, slice):
            return Candidates(self.keys[place], self.labels[place], self.splits[place])
        return Candidate(self.keys[place], self.labels[place], self.splits[place])

    def __iter__(self) -> Iterator[Candidate]:
        return map(Candidate, self.keys, self.labels, self.splits)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def at(self, places: Sequence[int]) -> Candidates:
        """Return those at the given places."""
        keys, labels, splits = self.keys, self.labels, self.splits
        return Candidates([keys[p] for p in places], [labels[p] for p in places], [splits[p] for p in places])


@dataclass(frozen=True)
class Source:
    """The contents of a dataset.

    Args:
        kind: folder, classes, table, shards, urls or synthetic.
        classes: names, sorted; for kind classes in the order of the configuration.
        candidates: all possible samples, sorted by label and key; those in shards are in the order of these.
        roots: the folder of each class; empty if the samples are URLs or in shards.
        problems: samples that cannot be used, one line each: "file: reason".
        ignored: number of files that are not images by name or content, without system files.
        unread: number of images in unsupported formats by suffix.
        shards: the tar files that contain the samples; None for other sources.
    """

    kind: str
    classes: tuple[str, ...]
    candidates: Candidates
    roots: tuple[Path, ...]
    problems: list[str]
    ignored: int
    unread: Mapping[str, int] = field(default_factory=dict)
    shards: Shards | None = None


def check_number_of_classes(where: Path | str, names: Sequence[str], hint: str) -> None:
    """Raise a `DataError` if there are too many classes; `where` they are, and the hint, are for its message."""
    if len(names) > MAX_CLASSES:
        examples = ", ".join(printable(name) for name in sorted(names)[:3])
        raise DataError(f"{where} has {len(names):,} classes (limit {MAX_CLASSES:,}): {examples}, …", hint=hint)


def classes_of_table(
    path: Path, labels: Iterable[str], label_column: str, unit: str, problems: Sequence[str]
) -> tuple[str, ...]:
    """The classes of a table, sorted.

    Args:
        path: the table.
        labels: the class of each row that can be used.
        label_column: where they stand.
        unit: what a sample is called, such as image.
        problems: what is wrong with the other rows.

    Raises:
        DataError: there are fewer than two, or too many.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        found = f"only the class {names[0]}" if names else "no usable row"
        raise DataError(
            f"{path} has {found}: a classifier needs at least two classes",
            hint=f"check that the column {label_column} contains the class of each {unit}",
            details=shortened(problems),
        )
    check_number_of_classes(
        path,
        names,
        f"check that the column {label_column} contains classes; choose another with --set data.label_column=NAME",
    )
    return names


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn from a source and divided into splits.

    Args:
        per_class: maximum number of samples of a class; None for all.
        report_limit: whether to report classes that have fewer.
        shares: shares of the splits train, val and test.
        group_by_host: whether URLs of the same host go into the same split.
        on_error: fail: unusable samples end the run; skip: they are left out.
        seed: seed of the draw and of the division.
    """

    per_class: int | None
    report_limit: bool
    shares: Sequence[float]
    group_by_host: bool
    on_error: OnError
    seed: int


def draw(source: Source, sampling: Sampling, unit: str, progress: Progress) -> Candidates:
    """Draw the samples of each class, before hours are spent on preparing them.

    Args:
        source: the classes and possible samples.
        sampling: how to draw.
        unit: what a sample is called, such as image.
        progress: receives messages.

    Raises:
        DataError: a class has too few samples.
    """
    candidates, per_class = source.candidates, sampling.per_class
    has_splits = len(candidates) > 0 and candidates.splits[0] is not None
    drawn = candidates
    if per_class is not None:
        splits = candidates.splits if has_splits else ()
        drawn = candidates.at(draw_sample(candidates.keys, candidates.labels, per_class, sampling.seed, splits))
    check_class_sizes(drawn.labels, source.classes)
    if has_splits:  # checked before the samples are read
        check_splits(drawn.labels, [split or "" for split in drawn.splits], source.classes)
    if len(drawn) < len(candidates):
        progress.line(f"Drew {len(drawn):,} of {len(candidates):,} samples, at most {per_class:,} of each class.")
    if per_class is not None and sampling.report_limit:
        _report_limit(source.classes, drawn.labels, per_class, unit, progress)
    return drawn


def _report_limit(classes: Sequence[str], labels: Sequence[int], limit: int, unit: str, progress: Progress) -> None:
    counts = Counter(labels)
    fewer = [label for label in range(len(classes)) if counts[label] < limit]
    if fewer:
        named = ", ".join(f"{classes[label]}: {counted(counts[label], unit)}" for label in fewer[:_MAX_NAMED])
        more = f" and {counted(len(fewer) - _MAX_NAMED, 'more class')}" if len(fewer) > _MAX_NAMED else ""
        progress.line(f"{named}{more} (limit {limit:,}); all of them are used.")


def divide(
    source: Source,
    samples: Candidates,
    hashes: Sequence[str],
    texts: Sequence[str],
    problems: Sequence[str],
    sampling: Sampling,
    unit: str,
    progress: Progress,
) -> Manifest:
    """Divide usable samples into splits.

    Samples with the same content go into the same split, whatever their classes; so do URLs of a host if requested. If
    the source says the splits, they stay as they are.

    Args:
        source: the classes.
        samples: N samples that were drawn and can be used.
        hashes: the SHA-256 of the content of each.
        texts: the URL that was read from each file; empty for samples that are URLs or only images.
        problems: why the other samples cannot be used.
        sampling: how to divide.
        unit: what a sample is called, such as image.
        progress: receives messages.

    Raises:
        DataError: there are problems that must not be skipped, or a class has too few samples left.
    """
    _handle_problems(problems, sampling.on_error, unit, progress)
    keys, labels = samples.keys, samples.labels
    _report_duplicates(source.classes, hashes, samples, unit, progress)
    # URLs that are the same once they are cleaned have the same host.
    urls = [text or key for text, key in zip(texts, keys, strict=True)]
    groups = [host_of(url) for url in urls] if sampling.group_by_host else list(hashes)
    given = [split for split in samples.splits if split is not None]
    if given:
        check_splits(labels, given, source.classes)
        _report_leaks(given, hashes, unit, progress)
        splits = given
    else:
        splits = assign_splits(keys, labels, groups, source.classes, sampling.shares, sampling.seed)
    divided = Samples(keys, labels, hashes, splits, texts)
    return Manifest(source.kind, source.classes, tuple(map(str, source.roots)), divided, tuple(problems))


def _handle_problems(problems: Sequence[str], on_error: OnError, unit: str, progress: Progress) -> None:
    """Report samples that cannot be used.

    Raises:
        DataError: there are some, and `on_error` is fail.
    """
    if not problems:
        return
    if on_error == "skip":
        were = "file or row was" if len(problems) == 1 else "files or rows were"
        progress.warn(f"{len(problems):,} {were} skipped; see splits.json of the run for the reasons.")
        return
    listed = list(problems[:MAX_LISTED])
    if len(problems) > MAX_LISTED:
        listed.append(f"… and {len(problems) - MAX_LISTED:,} more")
    raise DataError(
        f"{counted(len(problems), unit)} cannot be used",
        details=listed,
        hint="repair or remove them, or leave them out with --set data.on_error=skip",
    )


def _report_leaks(splits: Sequence[str], hashes: Sequence[str], unit: str, progress: Progress) -> None:
    """Warn of contents, given by their hashes, that the source has in several splits."""
    first: dict[str, str] = {}
    pairs = zip(splits, hashes, strict=True)
    leaks = len({digest for split, digest in pairs if first.setdefault(digest, split) != split})
    progress.line("Using the splits of the data set.")
    if leaks:
        progress.warn(
            f"{counted(leaks, unit)} {'is' if leaks == 1 else 'are'} in more than one split of the data set: "
            "scores will be inflated"
        )


def _report_duplicates(
    classes: Sequence[str], hashes: Sequence[str], candidates: Candidates, unit: str, progress: Progress
) -> None:
    """Report samples with the same content, given by its hash, within and across classes."""
    repeated = {digest for digest, count in Counter(hashes).items() if count > 1}
    places: dict[str, list[int]] = defaultdict(list)
    for position, digest in enumerate(hashes):
        if digest in repeated:
            places[digest].append(position)
    across = [found for found in places.values() if len({candidates.labels[p] for p in found}) > 1]
    within = sum(len(found) - 1 for found in places.values())
    if across:
        examples = "; ".join(
            " = ".join(f"{candidates.keys[p]} ({classes[candidates.labels[p]]})" for p in found[:3])
            for found in across[:3]
        )
        progress.warn(
            f"{counted(len(across), unit)} occur{'s' if len(across) == 1 else ''} in more than one class, "
            f"so no network can classify all of them correctly: {examples}"
        )
    if within:
        duplicates = "is a duplicate" if within == 1 else "are duplicates"
        together = "" if candidates.splits[0] else "; duplicates go into the same split"
        progress.line(f"{counted(within, unit)} {duplicates} of another{together}.")
