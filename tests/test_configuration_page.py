"""docs/configuration.md says what the schemas say."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "configuration.md"


def reference() -> str:
    page: str = runpy.run_path(str(DOCS / "make_configuration.py"))["reference"]()
    return page


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_it_names_default_range_and_meaning() -> None:
    rows = {line.split("|")[1].strip(): line for line in reference().splitlines() if line.startswith("| `")}
    assert "`10`" in rows["`training.epochs`"]
    assert "an integer of at least 1" in rows["`training.epochs`"]
    assert "passes over the training split" in rows["`training.epochs`"]
    assert "one of: fail, skip" in rows["`data.on_error`"]
    assert "`data.split.group`" in rows
