"""The name of a metric tells whether it is a share and which of its values are better."""

from __future__ import annotations

import pytest

from dbbd_cli.core.metrics import best_of, cost, describe_with_best, higher_is_better, is_share, superlative


@pytest.mark.parametrize(
    ("name", "share", "high"),
    [
        ("loss", False, False),
        ("loss_level_1", False, False),
        ("accuracy", True, True),
        ("mean_accuracy", True, True),
        ("f1", True, True),
        ("mean_iou", True, True),
        ("point_top1", True, True),
        ("top1_level_0", True, True),
        ("effective_rank", False, False),
        ("r2", False, True),
        ("roc_auc", False, True),
        ("my_score", False, True),
        ("scores", False, False),
    ],
)
def test_properties_follow_from_the_name(name: str, share: bool, high: bool) -> None:
    assert (is_share(name), higher_is_better(name)) == (share, high)
    assert superlative(name) == ("highest" if high else "lowest")
    assert cost(name, 0.25) == (-0.25 if high else 0.25)


def test_the_best_epoch_is_the_first_of_equals() -> None:
    values = [{"loss": 0.5, "accuracy": 0.5}, {"loss": None, "accuracy": 0.75}, {"loss": 0.25, "accuracy": 0.75}]
    rows = [{"epoch": number, "val": val} for number, val in enumerate(values, start=1)]
    assert best_of("accuracy", rows) == (2, 0.75)
    assert best_of("loss", rows) == (3, 0.25)
    assert best_of("f1", rows) is None


def test_the_best_value_is_described_if_another_epoch_had_it() -> None:
    described = describe_with_best("loss", 0.5, (3, 0.25), str)
    assert described == "0.5 (lowest 0.25 in epoch 3)"
    assert describe_with_best("f1", 0.5, (1200, 0.75), str) == "0.5 (highest 0.75 in epoch 1,200)"
    assert describe_with_best("loss", 0.5, (2, 0.5), str) == describe_with_best("loss", 0.5, None, str) == "0.5"
