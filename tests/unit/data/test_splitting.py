"""Splits have the configured shares in every class, keep groups together, and change little when a file is added."""

from __future__ import annotations

from collections import Counter

import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.splitting import assign_splits, check_class_sizes, draw_sample

SHARES = (0.7, 0.15, 0.15)


def split_of(count: int, classes: int = 2, groups: list[str] | None = None, seed: int = 42) -> list[str]:
    keys = [f"{label}/{index}" for label in range(classes) for index in range(count)]
    labels = [label for label in range(classes) for _ in range(count)]
    return assign_splits(keys, labels, groups or keys, [f"c{k}" for k in range(classes)], SHARES, seed)


def test_shares_are_exact_in_every_class() -> None:
    splits = split_of(5000)
    for label in range(2):
        part = Counter(splits[label * 5000 : (label + 1) * 5000])
        assert part == {"train": 3500, "val": 750, "test": 750}


def test_small_classes_are_in_every_split() -> None:
    for count in range(3, 12):
        assert set(split_of(count)) == {"train", "val", "test"}, count


def test_the_seed_determines_the_split() -> None:
    assert split_of(100) == split_of(100)
    assert split_of(100) != split_of(100, seed=43)


def test_the_order_of_the_samples_does_not_matter() -> None:
    keys = [f"{index}" for index in range(60)]
    labels = [index % 2 for index in range(60)]
    forward = dict(zip(keys, assign_splits(keys, labels, keys, "ab", SHARES, 1), strict=True))
    backward = dict(zip(keys[::-1], assign_splits(keys[::-1], labels[::-1], keys[::-1], "ab", SHARES, 1), strict=True))
    assert forward == backward


def test_groups_stay_together_and_shares_nearly_hold() -> None:
    groups = [f"host{index % 40}" for index in range(400)]
    splits = split_of(200, groups=groups)
    by_group: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        by_group.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in by_group.values())
    assert 0.6 < splits.count("train") / 400 < 0.8
    assert splits.count("val") > 20
    assert splits.count("test") > 20


def test_large_groups_do_not_always_go_to_training() -> None:
    seen = set()
    for seed in range(20):
        groups = ["big"] * 12 + [f"{index}" for index in range(12, 200)]
        seen.add(split_of(100, groups=groups, seed=seed)[0])
    assert seen == {"train", "val", "test"}


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(DataError) as caught:
        assign_splits(["a", "b", "c", "d", "e"], [0, 0, 0, 1, 1], list("abcde"), ["cat", "dog"], SHARES, 0)
    assert caught.value.details == ["dog: 2 samples"]


def test_a_class_of_one_group_cannot_be_in_every_split() -> None:
    keys = [str(index) for index in range(20)]
    groups = ["same"] * 10 + keys[10:]
    with pytest.raises(DataError, match="missing from a split"):
        assign_splits(keys, [0] * 10 + [1] * 10, groups, ["cat", "dog"], SHARES, 0)


def test_a_sample_is_balanced_and_hardly_changes_when_a_file_is_added() -> None:
    keys = [f"{index}" for index in range(300)]
    labels = [0] * 100 + [1] * 200
    chosen = draw_sample(keys, labels, 50, seed=3)
    assert Counter(labels[position] for position in chosen) == {0: 50, 1: 50}
    more = draw_sample([*keys, "new"], [*labels, 1], 50, seed=3)
    assert len(set(chosen) - set(more)) <= 1
    assert draw_sample(keys, labels, 150, seed=3)[:100] == list(range(100))


def test_rounding_favors_no_split_over_all_classes() -> None:
    splits = split_of(10, classes=2)
    assert Counter(splits) == {"train": 14, "val": 3, "test": 3}


def test_with_few_large_groups_every_class_is_still_in_every_split() -> None:
    groups = [f"host{index // 5}" for index in range(40)]  # four hosts in each class
    for seed in range(10):
        splits = split_of(20, groups=groups, seed=seed)
        assert set(splits[:20]) == set(splits[20:]) == {"train", "val", "test"}


def test_only_the_first_small_classes_are_listed() -> None:
    keys = [str(index) for index in range(5000)]
    with pytest.raises(DataError) as caught:
        assign_splits(keys, list(range(5000)), keys, keys, SHARES, 0)
    assert len(caught.value.details) == 11
    assert caught.value.details[-1] == "… and 4,990 more classes"


def test_counting_the_samples_of_very_many_classes_is_fast() -> None:
    labels = [index // 2 for index in range(400_000)]  # hours if counted class by class
    with pytest.raises(DataError, match="200,000 of 200,000 classes are too small"):
        check_class_sizes(labels, [str(index) for index in range(200_000)])
    with pytest.raises(DataError, match="1 of 2 classes is too small") as caught:
        check_class_sizes([0, 0, 0, 1], ["a", "b"])
    assert caught.value.details == ["b: 1 sample"]
