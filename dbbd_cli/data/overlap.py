"""How many samples are related to others, such as duplicates, within and across classes and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from dbbd_cli.data.manifest import Sample
from dbbd_cli.data.properties import Relation

_MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Overlap:
    """The samples that share something with others.

    Attributes:
        name: what they share.
        groups: groups of at least two samples that share it.
        samples: samples in these groups.
        groups_across_classes: groups with samples of more than one class.
        groups_across_splits: groups with samples of more than one split.
        held_out: validation and test samples in a group with a training sample.
        held_out_share: share of all validation and test samples.
        examples: the keys of a few pairs, from different splits or else classes if there are any.
        advice: what to do if `held_out` is not 0.
    """

    name: str
    groups: int
    samples: int
    groups_across_classes: int
    groups_across_splits: int
    held_out: int
    held_out_share: float
    examples: list[list[str]]
    advice: str


def overlap(relation: Relation, samples: Sequence[Sample]) -> Overlap:
    """Count the samples that a relation connects."""
    members: dict[Hashable, list[Sample]] = defaultdict(list)
    for key, sample in zip(relation.keys, samples, strict=True):
        if key is not None:
            members[key].append(sample)
    groups = [group for group in members.values() if len(group) > 1]
    across_splits = [group for group in groups if len({sample.split for sample in group}) > 1]
    across_classes = [group for group in groups if len({sample.label for sample in group}) > 1]
    leaks = [group for group in across_splits if any(sample.split == "train" for sample in group)]
    held_out = sum(sample.split != "train" for group in leaks for sample in group)
    total = sum(sample.split != "train" for sample in samples)
    shown = list({id(group): group for group in [*leaks, *across_splits, *across_classes, *groups]}.values())
    return Overlap(
        name=relation.name,
        groups=len(groups),
        samples=sum(map(len, groups)),
        groups_across_classes=len(across_classes),
        groups_across_splits=len(across_splits),
        held_out=held_out,
        held_out_share=held_out / total if total else 0.0,
        examples=[_pair(group) for group in shown[:_MAX_EXAMPLES]],
        advice=relation.advice,
    )


def _pair(group: Sequence[Sample]) -> list[str]:
    """The first sample, and one that differs from it in split, or else in class, if there is any."""
    first = group[0]
    other = max(group[1:], key=lambda sample: (sample.split != first.split, sample.label != first.label))
    return [first.key, other.key]
