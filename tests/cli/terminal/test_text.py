"""Numbers, units, and rows of names and values are written as documented."""

from __future__ import annotations

import math

import pytest

from dbbd_cli.cli.terminal import text
from dbbd_cli.engine.epoch_table import describe_metric


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.number(0.69314), "0.6931"),
        (text.number(1.2e-5), "1.200e-05"),
        (text.number(123456.0), "1.235e+05"),
        (text.number(math.nan), "-"),
        (text.number(None), "-"),
        (text.percent(0.8013), "80.13%"),
        (text.percent(None), "-"),
        (text.duration(12.34), "12.3 s"),
        (text.duration(444), "7.4 min"),
        (text.duration(8280), "2.3 h"),
        (text.time_left(8.6), "0:09 left"),
        (text.time_left(7267), "2:01:07 left"),
        (text.per_second(15.84), "15.8"),
        (text.per_second(1234.4), "1,234"),
        (text.megabytes(196.61), "196.61 MB"),
        (text.megabytes(12_000), "11.72 GB"),
        (text.megabytes(None), "-"),
        (text.count(51_539_906), "51,539,906"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("point_top1", 0.3125, "31.25%"),
        ("top1_level_2", 0.5, "50.00%"),
        ("accuracy", 0.5, "50.00%"),
        ("loss_level_2", 0.5, "0.5000"),
    ],
)
def test_only_accuracies_are_percentages(name: str, value: float, expected: str) -> None:
    assert text.metric(name, value) == describe_metric(name, value) == expected


def test_names_of_metrics_and_tasks() -> None:
    assert text.metric_name("top1_level_2") == "top-1 level 2"
    assert text.metric_name("point_top1") == "point top-1"
    assert text.metric_name("f1") == "F1"
    assert text.task_name("image_classification") == "image classification"


def test_long_values_wrap_below_themselves_but_words_stay_whole() -> None:
    rows = {"Data": "three short words", "Run folder": "runs/20260131-120000-qr_cnn"}
    assert [name + value for name, value in text.pairs(rows, 26)] == [
        "  Data        three short",
        "              words",
        "  Run folder  runs/20260131-120000-qr_cnn",
    ]
