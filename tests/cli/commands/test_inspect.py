"""`dbbd inspect` passes the configuration to its service, and shows the result as tables of any width or as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dbbd_cli.cli.terminal.inspection_table import inspect
from dbbd_cli.data.overlap import Overlap
from dbbd_cli.data.shortcuts import Shortcut
from dbbd_cli.services.results import InspectResult

Run = Callable[..., Any]
RESULT = InspectResult(
    task="url_classification",
    sample_unit="URLs",
    source="urls.csv",
    synthetic=False,
    counts={"benign": {"train": 70, "val": 15, "test": 15}, "mali\x1bcious": {"train": 700, "val": 15, "test": 15}},
    samples={"train": 770, "val": 30, "test": 30},
    skipped=3,
    properties={
        "scheme": {split: {"most_frequent": "none", "share": 0.53} for split in ("train", "val", "test")},
        "length": {split: {"median": 54.0, "min": 7.0, "max": 2100.0} for split in ("train", "val")} | {"test": {}},
    },
    overlaps=[
        Overlap("the same content", 2, 4, 1, 0, 0, 0.0, [["a", "b"]], "remove all but one of them"),
        Overlap("the same host", 12, 40, 1, 7, 9, 0.3, [["a", "b"]], "set data.split.group: host"),
    ],
    shortcuts=[
        Shortcut("scheme", 0.867, 0.849, 0.882, 0.86, True, "none: benign, http: malicious", "strip it"),
        Shortcut("length", 0.55, 0.52, 0.58, 0.54, False, "medians: benign 44, malicious 72", "collect again"),
    ],
    chance=0.5,
    clear_above=0.55,
    best_possible=0.98,
    files=[Path("figures/shortcuts.png")],
)


def shown(width: int | None) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width or 1000, markup=False, highlight=False)
    for part in inspect(RESULT, width):
        console.print(part)
    return text.getvalue()


def test_the_options_reach_the_service(run: Run, fake_service: Run) -> None:
    calls = fake_service("inspect", inspect=RESULT)
    result = run("inspect", "--config", "qr_url", "--set", "data.urls.scheme=keep", "--seed", "7", "--out", "figures")
    assert result.exit_code == 0
    [call] = calls
    [config] = call["positional"]
    assert (config.data.urls.scheme, config.seed, call["out"]) == ("keep", 7, Path("figures"))
    assert "scheme" in result.stdout


def test_a_bad_setting_is_an_error_before_anything_is_read(run: Run, fake_service: Run) -> None:
    calls = fake_service("inspect", inspect=RESULT)
    assert run("inspect", "--config", "qr_url", "--set", "data.urls.schema=keep").exit_code == 2
    assert calls == []


def test_json_has_every_field(run: Run, fake_service: Run) -> None:
    fake_service("inspect", inspect=RESULT)
    found = json.loads(run("inspect", "--config", "qr_url", "--json").stdout)
    assert found["shortcuts"][0]["balanced_accuracy"] == 0.867
    assert found["overlaps"][1]["held_out"] == 9
    assert found["counts"]["benign"]["train"] == 70
    assert found["files"] == ["figures/shortcuts.png"]


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_the_tables_fit(width: int | None) -> None:
    text = shown(width)
    assert max(len(line) for line in text.splitlines()) <= (width or 1000)
    joined = " ".join(text.split())
    assert "\x1b" not in text
    assert "86.7% 84.9% to 88.2%" in joined
    assert "Chance is 50.0%, the best possible result 98.0%" in joined
    assert "1 trivial property is clearly above chance" in joined
    assert "scheme: strip it" in joined
    assert "collect again" not in joined
    assert "the same content in several classes: 1: remove all but one of them" in joined
    assert "leaks by the same host: 30.0%: set data.split.group: host" in joined
    assert ("none: benign, http: malicious" in joined) == (width is None or width >= 90)
