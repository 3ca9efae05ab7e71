"""Draw run folders: one run into its own folder, or several overlaid in one figure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.report.history import training_history
from dbbd_cli.report.page import NARROW, html_page
from dbbd_cli.runs.reading import read_bytes, read_evaluation, read_run
from dbbd_cli.report.save import check_writable, disk_error, save_figure, write_file
from dbbd_cli.runs.folder import is_run_folder
from dbbd_cli.services.results import PlotResult
from dbbd_cli.tasks.registry import get_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "svg", "pdf", "html")


def plot(targets: Sequence[Path], *, out: Path | None = None, format: str = "png") -> PlotResult:  # noqa: A002
    """Draw the history of runs and, of a single one, its evaluation.

    One run: `training_history` and the figures of its evaluation. Several runs: `comparison`, their histories
    overlaid. As html: one `report.html` with figures and tables.

    Args:
        targets: run folders, or files inside them; a checkpoint among these is checked. One that is given twice counts
            once.
        out: folder to write to, made where it is missing. None: one run's own folder, or for several the current one.
        format: png, svg, pdf or html.

    Raises:
        ConfigError: no run folder was given, or the format is unknown.
        CheckpointError: a folder is not a run folder, or a file in it is damaged. Nothing was written.
        DiskError: the disk is full or the folder cannot be written to.
    """
    for target in targets:
        if target.suffix == ".pth" and target.is_file():
            # Nothing in it is drawn, but whoever names a checkpoint should learn that it is damaged or not safe.
            from dbbd_cli.model.weights import load_tensors

            load_tensors(target, objects=not is_run_folder(target.parent))
    folders = [target.parent if target.is_file() else target for target in targets]
    return PlotResult(files=_plot_runs(folders, out, format))


def _plot_runs(folders: Sequence[Path], out: Path | None, format: str) -> list[Path]:  # noqa: A002
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
        figures |= _evaluation_figures(unique[0], runs[0].task, evaluations[0])
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


def _evaluation_figures(folder: Path, task: str, evaluation: Mapping[str, Any]) -> dict[str, Figure]:
    def read(name: str) -> bytes | None:
        path = folder / name
        # Not Path.exists(): it raises where a link leads to a name that is too long.
        return read_bytes(path) if os.path.exists(path) else None  # noqa: PTH110

    try:
        return get_task(evaluation.get("task") or task).figures(evaluation, read)
    except CheckpointError as error:
        error.message = f"{folder}: {error.message}"
        raise
