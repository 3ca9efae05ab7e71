"""Figures of one run, or of several laid over each other, from their folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbbd_cli.report.plots import plot_runs
from dbbd_cli.runs.folder import is_run_folder
from dbbd_cli.services.results import PlotResult


def plot(targets: Sequence[Path], *, out: Path | None = None, format: str = "png") -> PlotResult:  # noqa: A002
    """Draws the training history; for a single run that was evaluated, the figures of the evaluation too.

    Args:
        targets: run folders, or files inside them; a checkpoint among these is checked.
        out: folder of the figures; by default the run's own, or the working directory for several runs.
        format: png, svg, pdf or html.

    Raises:
        DbbdError: see the kinds in `errors`.
    """
    for target in targets:
        if target.suffix == ".pth" and target.is_file():
            # Nothing in it is drawn, but who names a checkpoint shall hear that it is damaged, or not to be trusted.
            from dbbd_cli.model.weights import load_tensors

            load_tensors(target, objects=not is_run_folder(target.parent))
    folders = [target.parent if target.is_file() else target for target in targets]
    return PlotResult(files=plot_runs(folders, out, format))
