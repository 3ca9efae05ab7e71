from __future__ import annotations

import pytest

from dbbd_cli.metrics import best_of, cost, higher_is_better, is_share, superlative


@pytest.mark.parametrize(
    ("name", "share", "high"),
    [
        ("loss", False, False),
        ("loss_level_1", False, False),
        ("accuracy", True, True),
        ("mean_accuracy", True, True),
        ("f1", False, True),
        ("point_top1", True, True),
        ("top1_level_0", True, True),
        ("effective_rank", False, False),
    ],
)
def test_what_a_name_says(name: str, share: bool, high: bool) -> None:
    assert (is_share(name), higher_is_better(name)) == (share, high)
    assert superlative(name) == ("highest" if high else "lowest")
    assert cost(name, 0.25) == (-0.25 if high else 0.25)


def test_the_best_epoch_is_the_first_of_equals() -> None:
    values = [{"loss": 0.5, "accuracy": 0.5}, {"loss": None, "accuracy": 0.75}, {"loss": 0.25, "accuracy": 0.75}]
    rows = [{"epoch": number, "val": val} for number, val in enumerate(values, start=1)]
    assert best_of("accuracy", rows) == (2, 0.75)
    assert best_of("loss", rows) == (3, 0.25)
    assert best_of("f1", rows) is None
