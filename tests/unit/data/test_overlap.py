"""Related samples are counted within and across classes and splits."""

from __future__ import annotations

from dbbd_cli.data.manifest import Sample
from dbbd_cli.data.overlap import overlap
from dbbd_cli.data.properties import Relation


def test_groups_leaks_and_examples() -> None:
    rows = [
        ("a", 0, "train", "one"),
        ("b", 0, "train", "one"),
        ("c", 1, "train", "two"),
        ("d", 0, "test", "two"),
        ("e", 1, "val", "three"),
        ("f", 1, "test", "three"),
        ("g", 1, "test", None),
        ("h", 0, "train", None),
        ("i", 0, "train", "four"),
    ]
    samples = [Sample(key, label, "", split) for key, label, split, _ in rows]
    found = overlap(Relation("the same host", [row[3] for row in rows], "advice"), samples)
    assert (found.name, found.advice) == ("the same host", "advice")
    assert (found.groups, found.samples) == (3, 6)
    assert (found.groups_across_classes, found.groups_across_splits) == (1, 2)
    assert (found.held_out, found.held_out_share) == (1, 0.25)  # d of d, e, f and g
    assert found.examples == [["c", "d"], ["e", "f"], ["a", "b"]]


def test_samples_that_share_nothing() -> None:
    found = overlap(Relation("x", ["a", "b"], ""), [Sample("a", 0, "", "train"), Sample("b", 0, "", "train")])
    assert (found.groups, found.held_out, found.held_out_share, found.examples) == (0, 0, 0.0, [])
