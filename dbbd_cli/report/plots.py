"""Draws run folders: one run into its own folder, several over each other into one picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.report.check import PRETRAINING_TASK
from dbbd_cli.report.classification.figures import evaluation_figures
from dbbd_cli.report.history import training_history
from dbbd_cli.report.page import NARROW, html_page
from dbbd_cli.report.run import read_evaluation, read_run
from dbbd_cli.report.save import check_writable, disk_error, save_figure, write_file
from dbbd_cli.report.scenes.evaluation_scene import read_evaluation_scene
from dbbd_cli.tasks.dbbd.figures import pretraining_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "svg", "pdf", "html")


def plot_runs(folders: Sequence[Path], out: Path | None, format: str) -> list[Path]:  # noqa: A002
    """Draws the history of runs and, of a single one, its evaluation; returns the files written.

    One run: `training_history` and the figures of its evaluation. Several runs: `comparison`, their histories over
    each other. As html: one `report.html` with figures and tables.

    Args:
        folders: run folders; one that is given twice counts once.
        out: folder to write to, made where it is missing. None: one run's own folder, or for several the current one.
        format: png, svg, pdf or html.

    Raises:
        ConfigError: no run folder was given, or the format is unknown.
        CheckpointError: a folder is not a run folder, or a file in it is damaged. Nothing was written.
        DiskError: the disk is full or the folder cannot be written to.
    """
    if format not in _FORMATS:
        raise ConfigError(f"figures are not written as {format}", hint="use png, svg, pdf or html")
    # Not Path.resolve(): it fails on links that lead in a circle.
    unique = list({os.path.realpath(folder): folder for folder in folders}.values())
    if not unique:
        raise ConfigError("no run folder was given", hint="give at least one, as printed by `dbbd train`")
    runs = [read_run(folder) for folder in unique]
    single = len(runs) == 1
    target = out or (unique[0] if single else Path())
    check_writable(target)
    # An overlay has no room for evaluations, a page has.
    evaluations = [read_evaluation(folder) if single or format == "html" else None for folder in unique]
    figures = {"training_history" if single else "comparison": training_history(runs)}
    if single and evaluations[0] is not None:
        figures |= _evaluation_figures(unique[0], evaluations[0])
    try:
        target.mkdir(parents=True, exist_ok=True)
        remove_strays(target)
    except OSError as error:
        raise disk_error(target, error) from error
    if format == "html":
        name = next(iter(figures))
        figures = {name: figures[name], name + NARROW: training_history(runs, narrow=True), **figures}
        page = target / "report.html"
        write_file(page, html_page(runs, evaluations, figures).encode("utf-8"))
        return [page]
    return [save_figure(figure, target / f"{name}.{format}") for name, figure in figures.items()]


def _evaluation_figures(folder: Path, evaluation: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of an evaluation, whatever its task; those of a scene only where the scene is there."""
    if evaluation.get("task") == PRETRAINING_TASK:
        return pretraining_figures(evaluation, read_evaluation_scene(folder))
    return evaluation_figures(evaluation)
