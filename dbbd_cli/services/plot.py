"""Plot run folders: one run into its own folder, or several overlaid in one figure."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.report.drawing import draw
from dbbd_cli.report.evaluation import read_evaluation
from dbbd_cli.report.history import training_history
from dbbd_cli.report.history_panels import recorded_metrics
from dbbd_cli.report.save import check_writable, disk_error, save_figure, write_file
from dbbd_cli.report.tables import Values, about
from dbbd_cli.runs.folder import is_run_folder
from dbbd_cli.runs.reading import RunHistory, read_bytes, read_run
from dbbd_cli.services.results import PlotResult
from dbbd_cli.tasks.base import Task
from dbbd_cli.tasks.registry import get_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.report.scenes.viewer import PointCloud
    from dbbd_cli.report.tables import Section

_Chosen = TypeVar("_Chosen")
_Made = TypeVar("_Made")
_FORMATS = ("png", "svg", "pdf", "html")


def plot(targets: Sequence[Path], *, out: Path | None = None, format: str = "png") -> PlotResult:  # noqa: A002
    """Plot the history of runs and, for a single one, its evaluation.

    One run: `training_history` and the figures of its evaluation. Several runs: `comparison`, their histories
    overlaid. As html: one `report.html` with figures and tables.

    Args:
        targets: run folders, or files inside them; a checkpoint among these is checked. Duplicates count once.
        out: folder to write to, created if it is missing. None: the run's own folder, or the current one for several.
        format: png, svg, pdf or html.

    Raises:
        ConfigError: no run folder was given, or the format is unknown.
        CheckpointError: a folder is not a run folder, a file in it is damaged, or its task is not installed. Nothing
            was written.
        DiskError: the disk is full or the folder cannot be written to.
    """
    for target in targets:
        if target.suffix == ".pth" and target.is_file():
            # Nothing in it is plotted, but a damaged or unsafe checkpoint should not pass unnoticed.
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
        raise ConfigError("no run folder was given", hint="pass at least one, as printed by `dbbd train`")
    runs = [read_run(folder) for folder in unique]
    tasks = [_task_of(run) for run in runs]
    single = len(runs) == 1
    target = out or (unique[0] if single else Path())
    check_writable(target)
    # A page has room for the evaluations of several runs, an overlay does not.
    evaluations = [
        read_evaluation(run.folder, task.evaluation_schema()) if single or format == "html" else None
        for run, task in zip(runs, tasks, strict=True)
    ]
    clouds: Mapping[str, PointCloud] = {}
    figures = {"training_history" if single else "comparison": history_figure(runs)}
    if single and evaluations[0] is not None:
        figures |= _from_evaluation(tasks[0].figures, runs[0].folder, evaluations[0], draw)
        if format == "html":
            clouds = _from_evaluation(tasks[0].clouds, runs[0].folder, evaluations[0], dict)
    try:
        target.mkdir(parents=True, exist_ok=True)
        remove_strays(target)
    except OSError as error:
        raise disk_error(target, error) from error
    if format == "html":
        from dbbd_cli.report.page import NARROW, html_page

        name = next(iter(figures))
        figures = {name: figures[name], name + NARROW: history_figure(runs, narrow=True), **figures}
        tables = [_tables(task, evaluation) for task, evaluation in zip(tasks, evaluations, strict=True)]
        page = target / "report.html"
        write_file(page, html_page(runs, _progress_metrics(tasks), tables, figures, clouds).encode("utf-8"))
        return [page]
    return [save_figure(figure, target / f"{name}.{format}") for name, figure in figures.items()]


def history_figure(runs: Sequence[RunHistory], *, narrow: bool = False) -> Figure:
    """Draw the training history of runs, with the panels that their task chooses if they have the same one.

    Raises:
        CheckpointError: the task of a run is not installed.
    """
    tasks = [_task_of(run) for run in runs]
    same = all(task is tasks[0] for task in tasks)
    panels = tasks[0].history_panels(recorded_metrics(runs), len(runs)) if same else []
    return training_history(runs, _progress_metrics(tasks), panels, narrow=narrow)


def _progress_metrics(tasks: Sequence[Task]) -> list[str]:
    return list(dict.fromkeys(metric for task in tasks for metric in task.progress_metrics))


def _task_of(run: RunHistory) -> Task:
    try:
        return get_task(run.task)
    except ConfigError as error:
        raise CheckpointError(
            f"{run.folder}: {error.message}", hint="install the package that provides the task"
        ) from error


def _tables(task: Task, evaluation: dict[str, Any] | None) -> list[Section]:
    if evaluation is None:
        return []
    return [Values("Summary", tuple(about(evaluation))), *task.tables(evaluation)]


def _from_evaluation(
    choose: Callable[[Mapping[str, Any], Callable[[str], bytes | None]], _Chosen],
    folder: Path,
    evaluation: dict[str, Any],
    make: Callable[[_Chosen], dict[str, _Made]],
) -> dict[str, _Made]:
    """What a task chooses to show of an evaluation; errors name the run folder."""

    def read(name: str) -> bytes | None:
        path = folder / name
        # Not Path.exists: it raises if a link leads to a name that is too long.
        return read_bytes(path) if os.path.exists(path) else None  # noqa: PTH110

    try:
        return make(choose(evaluation, read))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error.message}", hint=error.hint) from error
