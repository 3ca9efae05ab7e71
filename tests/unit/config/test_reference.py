from __future__ import annotations

from pathlib import Path

from dbbd_cli.config.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_it_names_default_range_and_meaning() -> None:
    rows = {line.split("|")[1].strip(): line for line in reference().splitlines() if line.startswith("| `")}
    assert "`10`" in rows["`training.epochs`"]
    assert "an integer of at least 1" in rows["`training.epochs`"]
    assert "passes over the training split" in rows["`training.epochs`"]
    assert "one of: fail, skip" in rows["`data.on_error`"]
    assert "`data.split.group`" in rows
