"""The report of an evaluation."""

from __future__ import annotations

from dbbd_cli.report.evaluation import Evaluation, Number


class ToyEvaluation(Evaluation):
    """The fields of `evaluation.json`."""

    mae: Number | None = None
    r2: Number | None = None
    baseline_mae: Number | None = None
