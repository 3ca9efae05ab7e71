"""Evaluate a checkpoint on a split: the full report with figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.errors import ConfigError, DiskError
from dbbd_cli.core.files import write_bytes
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.engine.checkpoint.files import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.workload import Workload
from dbbd_cli.report.drawing import draw, message_of
from dbbd_cli.report.evaluation import EVALUATION, EVALUATION_FORMAT
from dbbd_cli.report.save import check_writable, save_figure
from dbbd_cli.runs.folder import is_run_folder
from dbbd_cli.runs.log import finite
from dbbd_cli.services.bare_weights import open_bare_weights
from dbbd_cli.services.results import EvaluateResult
from dbbd_cli.services.session import build_workload, load_module, open_run
from dbbd_cli.tasks.registry import get_task


def evaluate(
    target: Path,
    *,
    split: str = "test",
    out: Path | None = None,
    plots: bool = True,
    corrupt: int | None = None,
    config: str | None = None,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> EvaluateResult:
    """Evaluate a checkpoint on exactly the samples that the run's manifest assigns to a split.

    Writes `evaluation.json`, the files of the task, such as predictions, and the figures.

    Args:
        target: a run folder (meaning its best model), a checkpoint in one, or a file of weights outside a run folder,
            if a task accepts it.
        split: train, val or test.
        out: folder for the files. None: the run folder, or one next to the weights outside a run folder.
        plots: whether to draw figures.
        corrupt: maximum number of pictures to evaluate corrupted as well; None: none.
        config: configuration for weights outside a run folder, a YAML file or a shipped name.
        overrides: settings that replace those of the run, such as where the data is now.
        progress: shows bars; nothing is shown by default.

    Raises:
        DbbdError: of any kind in `core.errors`.
    """
    progress = progress or Silent()
    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split: {split!r} is not a split", hint="choose one of: train, val, test")
    if target.is_file() and not is_run_folder(target.parent):
        loaded = _load_bare_weights(target, split, out, config, overrides, progress)
    elif config is not None:
        raise ConfigError("--config: a run has its own configuration", hint="change it with --set KEY=VALUE")
    else:
        loaded = _load_run(target, split, out, overrides, progress)
    place(loaded.workload.module, loaded.runtime)
    task = get_task(loaded.settings.task)
    if corrupt is not None and not task.can_corrupt:
        raise ConfigError(
            f"--corruptions: a run of {loaded.settings.task} has no pictures to corrupt", hint="leave the option out"
        )
    with supervised(loaded.workload):
        evaluation = task.evaluate(loaded.workload, split, loaded.runtime, progress)
        further = {}
        if corrupt is not None:
            further["corruptions"] = task.evaluate_corrupted(loaded.workload, split, loaded.runtime, corrupt, progress)
    report = finite(
        {
            "format": EVALUATION_FORMAT,
            "task": loaded.settings.task,
            "checkpoint": loaded.path.name,
            "epoch": loaded.epoch,
            "split": split,
            "synthetic": loaded.settings.is_synthetic,
            **evaluation.report,
            **further,
        }
    )
    folder = out or loaded.home
    files = _write(report, evaluation.files, folder)
    figures = _draw(report, evaluation.files, folder, progress) if plots else []
    _remove_outdated(report, folder, figures)
    return EvaluateResult(run=loaded.home, checkpoint=loaded.path, report=report, files=[*files, *figures])


@dataclass(frozen=True)
class _Loaded:
    """A network with its weights, and the data to evaluate it on.

    Attributes:
        settings: the configuration.
        path: the file of the weights.
        epoch: epochs that the weights were trained for, 0 if unknown.
        home: the folder for the report by default.
        workload: data and network.
        runtime: device and precision.
    """

    settings: TaskConfig
    path: Path
    epoch: int
    home: Path
    workload: Workload
    runtime: Runtime


def _load_run(target: Path, split: str, out: Path | None, overrides: Sequence[Override], progress: Progress) -> _Loaded:
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
    check_writable(out or run.folder)
    epoch = len(run.state.history)
    workload, runtime = build_workload(
        run.config, run.manifest, splits=(split,), pretrained=False, progress=progress, recorded=run.kept_runtime
    )
    load_module(workload, run)
    return _Loaded(run.config, run.path, epoch, run.folder, workload, runtime)


def _load_bare_weights(
    path: Path,
    split: str,
    out: Path | None,
    config: str | None,
    overrides: Sequence[Override],
    progress: Progress,
) -> _Loaded:
    home = path.with_name(f"{path.stem}-evaluation")
    check_writable(out or home)
    settings, manifest, epoch = open_bare_weights(path, config=config, overrides=overrides, progress=progress)
    workload, runtime = build_workload(settings, manifest, splits=(split,), pretrained=True, progress=progress)
    return _Loaded(settings, path, epoch, home, workload, runtime)


def _write(report: Mapping[str, Any], extra: Mapping[str, bytes], folder: Path) -> list[Path]:
    files = {EVALUATION: (json.dumps(report, indent=1) + "\n").encode("utf-8"), **extra}
    paths = {_named(folder, name, report["split"]): content for name, content in files.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_strays(folder)
        for path, content in paths.items():
            write_bytes(path, content)
    except OSError as error:
        raise DiskError(
            f"the evaluation cannot be written to {folder}: {error.strerror}",
            hint="choose another folder with --out DIR",
        ) from error
    return list(paths)


def _draw(report: Mapping[str, Any], files: Mapping[str, bytes], folder: Path, progress: Progress) -> list[Path]:
    """Draw the figures. A failure is a warning and does not affect the others: the report is already written."""

    def failed(name: str, error: Exception) -> None:
        progress.warn(f"{_named(folder, f'{name}.png', report['split']).name} could not be drawn: {message_of(error)}")

    figures = draw(get_task(report["task"]).figures(report, files.get), failed)
    paths = []
    for name, figure in figures.items():
        try:
            paths.append(save_figure(figure, _named(folder, f"{name}.png", report["split"])))
        except Exception as error:
            failed(name, error)
    return paths


def _remove_outdated(report: Mapping[str, Any], folder: Path, drawn: Sequence[Path]) -> None:
    """Remove the figures of an earlier evaluation of the same split that this one did not draw."""
    for name in get_task(report["task"]).figure_names:
        path = _named(folder, f"{name}.png", report["split"])
        if path not in drawn:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _named(folder: Path, name: str, split: str) -> Path:
    """The path of a file of a split: only those of the test split have the plain name."""
    stem, dot, suffix = name.rpartition(".")
    return folder / (name if split == "test" else f"{stem}-{split}{dot}{suffix}")
