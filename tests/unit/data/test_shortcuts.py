"""Trivial properties that give away the class are found, those that do not are not, and intervals are honest."""

from __future__ import annotations

import numpy as np
import pytest

from dbbd_cli.data.properties import Property, categories, joined, numbers, summary
from dbbd_cli.data.shortcuts import Shortcut, best_possible, chance_level, find_shortcuts, learn_rule

CLASSES = ("benign", "malicious")
NUM = 2000
LABELS = np.arange(NUM) % 2
IS_TRAIN = np.arange(NUM) < 1400
RANDOM = np.random.default_rng(0)


def shortcut(part: Property, labels: np.ndarray = LABELS, classes: tuple[str, ...] = CLASSES) -> Shortcut:
    [found] = find_shortcuts([part], labels, IS_TRAIN, ~IS_TRAIN, classes)
    return found


def test_a_name_that_tells_the_class_in_four_of_five_samples_is_found() -> None:
    wrong = np.arange(NUM) // 2 % 5 == 0
    found = shortcut(categories("scheme", np.where((LABELS == 1) ^ wrong, "http", "none").tolist(), "strip it"))
    assert found.balanced_accuracy == pytest.approx(0.8)
    assert found.accuracy == pytest.approx(0.8)
    assert found.low < 0.8 < found.high
    # Wald's interval of the mean of two recalls of 0.8, from 300 samples each.
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(2 * 0.8 * 0.2 / 300) / 2, rel=0.02)
    assert found.clear
    assert found.rule == "http: malicious, none: benign"  # equally frequent: in the order of the alphabet
    assert found.advice == "strip it"


@pytest.mark.parametrize("distinct", [3, 400])
def test_values_without_relation_to_the_class_are_not_found(distinct: int) -> None:
    values = RANDOM.integers(distinct, size=NUM)
    for part in (numbers("size", values.tolist(), ""), categories("name", [str(v) for v in values], "")):
        found = shortcut(part)
        assert not found.clear
        assert found.low < 0.5 < found.high


@pytest.mark.parametrize("num", [200, 1000])
def test_of_many_properties_that_say_nothing_none_is_named(num: int) -> None:
    """Ten draws with eight properties each, as different as those of pictures and URLs are."""
    for seed in range(10):
        random = np.random.default_rng(seed)
        labels, is_train = random.permutation(num) % 2, np.arange(num) < 0.7 * num
        parts = [
            numbers("normal", random.normal(size=num).tolist(), ""),
            numbers("skewed", random.lognormal(5, 1, num).round().tolist(), ""),
            numbers("few", random.choice([1, 8, 16], num, p=[0.1, 0.8, 0.1]).tolist(), ""),
            numbers("version", random.poisson(4, num).tolist(), ""),
            numbers("unknown", np.where(random.random(num) < 0.3, np.nan, random.random(num)).tolist(), ""),
            categories("same", ["x"] * num, ""),
            categories("rare", [str(value) for value in random.zipf(1.5, num)], ""),
            categories("coin", random.choice(["yes", "no"], num).tolist(), ""),
        ]
        found = find_shortcuts(parts, labels, is_train, ~is_train, CLASSES)
        assert [part.name for part in found if part.clear] == []


def test_numbers_are_divided_into_ranges_that_are_not_monotonic() -> None:
    values = np.where(LABELS == 1, RANDOM.choice([1.0, 3.0], NUM), 2.0) + RANDOM.random(NUM) / 10
    found = shortcut(numbers("length", values.tolist(), ""))
    assert found.balanced_accuracy > 0.9
    assert found.rule.startswith("medians: benign 2.0")


def test_few_different_numbers_are_names_and_rare_ones_are_taken_together() -> None:
    values = np.where(LABELS == 1, 8.0, 1.0)
    values[:4] = [2, 3, 4, 5]  # each too rare for a rule
    found = shortcut(numbers("bit depth", values.tolist(), ""))
    assert found.balanced_accuracy == 1.0
    assert 0.97 < found.low < 1.0  # not 1: there are 300 samples of each class
    assert found.high == 1.0


def test_values_that_are_unknown_or_new_in_validation_are_no_error() -> None:
    values = np.where(LABELS == 1, RANDOM.random(NUM), RANDOM.random(NUM) + 0.5)
    values[::7] = np.nan
    values[-20:] = 99.0
    assert shortcut(numbers("extent", values.tolist(), "")).clear
    assert not shortcut(numbers("extent", [np.nan] * NUM, "")).clear
    names = ["old" if train else f"new{place}" for place, train in enumerate(IS_TRAIN)]
    assert not shortcut(categories("name", names, "")).clear


def test_small_classes_count_as_much_as_large_ones() -> None:
    labels = (np.arange(NUM) % 10 == 0).astype(np.int64)
    found = shortcut(categories("constant", ["x"] * NUM, ""), labels)
    assert found.balanced_accuracy == pytest.approx(0.5)
    assert found.accuracy in (pytest.approx(0.1), pytest.approx(0.9))
    # Two of three samples with "x" are of the large class, but so are all others: "x" points to the small one.
    values = ["x" if label or place % 10 in (1, 2) else "y" for place, label in enumerate(labels)]
    assert shortcut(categories("half", values, ""), labels).rule == "y: benign, x: malicious"
    assert shortcut(categories("telling", [str(label) for label in labels], ""), labels).balanced_accuracy == 1.0


def test_a_rule_for_accuracy_names_the_most_frequent_class_where_it_knows_no_better() -> None:
    labels = np.array([0] * 12 + [1] * 8 + [0, 0, 0])
    is_train = np.arange(23) < 20
    word = categories("word", ["a"] * 14 + ["b"] * 6 + ["a", "b", "new"], "")
    rule = learn_rule(word, labels, is_train, 2, balanced=False)
    assert rule.predicted[~is_train].tolist() == [0, 1, 0]
    assert not rule.is_constant
    # Of 12 and 8 training samples, "x" has 7 and 5: most are of class 0, but a larger share of class 1.
    half = categories("half", ["x"] * 7 + ["y"] * 5 + ["x"] * 5 + ["y"] * 3 + ["x"] * 3, "")
    assert learn_rule(half, labels, is_train, 2, balanced=False).predicted[20] == 0
    assert learn_rule(half, labels, is_train, 2, balanced=True).predicted[20] == 1
    same = learn_rule(numbers("same", [3.0] * 20 + [4.0] * 3, ""), labels, is_train, 2, balanced=False)
    assert same.is_constant
    assert same.predicted.tolist() == [0] * 23


def test_properties_of_two_lists_of_samples_are_joined_by_name() -> None:
    one = [numbers("size", [1, 2], "crop"), numbers("only here", [0, 0], "")]
    [size] = joined(one, [categories("other", ["x"], ""), numbers("size", [3], "crop")])
    assert (size.name, size.values.tolist(), size.advice) == ("size", [1, 2, 3], "crop")


def test_a_perfect_rule_on_few_samples_is_not_clear() -> None:
    labels = np.array([0, 1] * 8)
    is_train = np.arange(16) < 12
    [found] = find_shortcuts([numbers("width", labels.tolist(), "")], labels, is_train, ~is_train, CLASSES)
    assert found.balanced_accuracy == 1.0
    assert not found.clear


def test_the_most_accurate_come_first_and_a_split_without_samples_gives_none() -> None:
    parts = [categories("a", ["x"] * NUM, ""), categories("b", [str(label) for label in LABELS], "")]
    assert [found.name for found in find_shortcuts(parts, LABELS, IS_TRAIN, ~IS_TRAIN, CLASSES)] == ["b", "a"]
    assert find_shortcuts(parts, LABELS, IS_TRAIN, np.zeros(NUM, dtype=bool), CLASSES) == []


def test_chance_and_the_best_possible_result() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert chance_level(labels) == pytest.approx(1 / 3)
    assert best_possible(labels, list("abcdef")) == 1.0
    # "x" is in classes 0 and 1: at best one of the three samples of class 0 is wrong.
    assert best_possible(labels, ["x", "b", "c", "x", "e", "f"]) == pytest.approx((2 / 3 + 1 + 1) / 3)


def test_summaries() -> None:
    assert summary(np.array([3.0, np.nan, 1.0, 2.0])) == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert summary(np.array([np.nan])) == {}
    assert summary(np.array(["a", "b", "a"])) == {"most_frequent": "a", "share": pytest.approx(2 / 3)}
    assert summary(np.array([], dtype=str)) == {}


def test_ranges_come_from_the_training_split_and_unknown_numbers_are_apart() -> None:
    train = np.arange(640.0)
    others = np.array([-5.0, 19.0, 19.5, 1e6, np.nan])  # 19 ends the first of 32 ranges
    is_train = np.arange(645) < 640
    part = numbers("length", np.concatenate([train, others]).tolist(), "")
    rule = learn_rule(part, np.zeros(645, dtype=np.int64), is_train, 1, balanced=True)
    assert rule.names[:2] == ["up to 19", "up to 39"]
    assert rule.counts[:-1].tolist() == [[20.0]] * 32
    assert [rule.names[code] for code in rule.codes[640:]] == [
        "up to 19", "up to 19", "up to 39", "above 619", "unknown",
    ]  # fmt: skip
