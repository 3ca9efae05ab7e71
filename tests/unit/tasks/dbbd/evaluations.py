"""Evaluate a run, and change the labels of its scenes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dbbd_cli.services.evaluate import evaluate


def report_of(run: Path, **options: Any) -> dict[str, Any]:
    report: dict[str, Any] = evaluate(run, plots=False, **options).report
    return report


def relabel(root: Path, change: Callable[[str, np.ndarray], np.ndarray | None]) -> None:
    for path in root.rglob("*.pkl"):
        content = pickle.loads(path.read_bytes())
        content["segment20"] = change(path.parent.name, content["segment20"])
        path.write_bytes(pickle.dumps(content))


def missing(report: dict[str, Any]) -> str:
    assert report["probe"] is None
    text: str = report["probe_missing"]
    return text
