"""Evaluate a checkpoint on a split: the full report with figures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.errors import ConfigError, DataError, DiskError
from dbbd_cli.core.files import write_bytes
from dbbd_cli.core.processes import Member, from_environment
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.temporary import remove_strays
from dbbd_cli.core.text import printable
from dbbd_cli.data.manifest import SPLITS, Manifest
from dbbd_cli.engine.checkpoint.files import BEST
from dbbd_cli.engine.failures import supervised
from dbbd_cli.engine.inference import place
from dbbd_cli.engine.processes import Processes, joined
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.workload import Workload
from dbbd_cli.model.digest import stored_digest
from dbbd_cli.report.calibration import Calibration, calibration_json
from dbbd_cli.report.drawing import draw, message_of
from dbbd_cli.report.evaluation import EVALUATION, EVALUATION_FORMAT
from dbbd_cli.report.prediction import Calibration as Fitted
from dbbd_cli.report.save import check_writable, save_figure
from dbbd_cli.runs.folder import CALIBRATION, is_run_folder
from dbbd_cli.runs.log import finite
from dbbd_cli.services.bare_weights import open_bare_weights
from dbbd_cli.services.results import EvaluateResult
from dbbd_cli.services.session import OpenedRun, build_workload, load_module, open_run
from dbbd_cli.tasks.base import EvaluationOutput, Task
from dbbd_cli.tasks.registry import get_task


def evaluate(
    target: Path,
    *,
    split: str = "test",
    out: Path | None = None,
    data: Path | None = None,
    plots: bool = True,
    corrupt: int | None = None,
    config: str | None = None,
    overrides: Sequence[Override] = (),
    progress: Progress | None = None,
) -> EvaluateResult:
    """Evaluate a checkpoint on exactly the samples that the run's manifest assigns to a split.

    Writes `evaluation.json`, the files of the task, such as predictions, the figures and, if the task fits something
    on the validation split, `calibration.json`. Evaluations of another split or data set have its name in theirs, such
    as `evaluation-val.json`, and so have their figures. If torchrun or `srun` has started several processes, they
    divide the batches or scenes; the first one then makes the report alone, and that of the others is empty.

    Args:
        target: a run folder (meaning its best model), a checkpoint in one, or a file of weights outside a run folder,
            if a task accepts it.
        split: train, val or test.
        out: folder for the files. None: the run folder, or one next to the weights outside a run folder.
        data: another data set with the same classes: all of it is evaluated instead of a split.
        plots: whether to draw figures.
        corrupt: maximum number of pictures to evaluate corrupted as well; None: none.
        config: configuration for weights outside a run folder, a YAML file or a shipped name.
        overrides: settings that replace those of the run, such as where the data is now.
        progress: shows bars; nothing is shown by default.

    Raises:
        DbbdError: of any kind in `core.errors`.
    """
    member = from_environment(os.environ)
    progress = progress if progress and member.is_first else Silent()
    with member.reporting_once():
        _check_choice(split, data)
        source = _open(target, out, data, config, overrides, progress)
        _check_task(source.settings.task, corrupt, member)
    with joined(member, timeout=source.settings.run.process_timeout) as processes:
        processes.require_same_checkpoint(source.digest)
        with processes.in_turns():
            loaded = _load(source, split, data, processes, progress)
        evaluation, further = _measure(loaded, split, corrupt, processes, progress)
    if not processes.is_first:
        return EvaluateResult(run=source.home, checkpoint=source.path, report={}, files=[])
    report = finite(
        {
            "format": EVALUATION_FORMAT,
            "task": source.settings.task,
            "checkpoint": source.path.name,
            "epoch": source.epoch,
            "split": split if data is None else None,
            "data": None if data is None else str(data),
            "synthetic": source.settings.is_synthetic and data is None,
            **evaluation.report,
            **further,
        }
    )
    folder = out or source.home
    suffix = _suffix(split, data)
    content = {
        _named(folder, EVALUATION, suffix): (json.dumps(report, indent=1) + "\n").encode("utf-8"),
        **{_named(folder, name, suffix): content for name, content in evaluation.files.items()},
    }
    if data is None and evaluation.calibration is not None and source.digest is not None:
        fitted = {"checkpoint": source.path.name, "checkpoint_sha256": source.digest, **evaluation.calibration}
        content[folder / CALIBRATION] = calibration_json(Calibration.model_validate(fitted))
    files = _write(content, folder)
    figures = _draw(report, evaluation.files, folder, suffix, progress) if plots else []
    _remove_outdated(report, folder, suffix, figures)
    return EvaluateResult(run=source.home, checkpoint=source.path, report=report, files=[*files, *figures])


def _check_choice(split: str, data: Path | None) -> None:
    """Raise unless it is clear what to evaluate: a split, or an existing data set instead of one."""
    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split: {split!r} is not a split", hint="choose one of: train, val, test")
    if data is not None and split != "test":
        raise ConfigError(f"--data: all of {data} is evaluated", hint="leave out --split")
    if data is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(data)):  # not shown: it may contain a password
        raise ConfigError("--data: data behind URLs cannot be evaluated", hint="copy it to this machine")
    if data is not None and not data.exists():
        raise ConfigError(f"--data: {data} does not exist")


def _check_task(name: str, corrupt: int | None, member: Member) -> None:
    """Raise unless the task can be evaluated as asked for."""
    task = get_task(name)
    if corrupt is not None and not task.can_corrupt:
        raise ConfigError(f"--corruptions: a run of {name} has no pictures to corrupt", hint="leave the option out")
    if member.size > 1 and not task.shares_evaluation:
        raise ConfigError(
            f"a run of {name} is evaluated in one process, and {member.size} were started",
            hint="start it without --nproc, torchrun or srun",
        )


@dataclass(frozen=True)
class _Source:
    """What is evaluated.

    Attributes:
        settings: the configuration.
        manifest: the samples and their splits.
        path: the file of the weights.
        digest: its digest, if it has one.
        epoch: epochs that the weights were trained for, 0 if unknown.
        home: the folder for the report by default.
        run: the run of the weights; None if they are in none.
    """

    settings: TaskConfig
    manifest: Manifest
    path: Path
    digest: str | None
    epoch: int
    home: Path
    run: OpenedRun | None


def _open(
    target: Path,
    out: Path | None,
    data: Path | None,
    config: str | None,
    overrides: Sequence[Override],
    progress: Progress,
) -> _Source:
    """Open a run, or weights outside a run folder."""
    if target.is_file() and not is_run_folder(target.parent):
        if data is not None:
            raise ConfigError("--data: weights alone have no data of their own", hint="use --set data.path=PATH")
        home = target.with_name(f"{target.stem}-evaluation")
        check_writable(out or home)
        settings, manifest, epoch = open_bare_weights(target, config=config, overrides=overrides, progress=progress)
        return _Source(settings, manifest, target, stored_digest(target), epoch, home, None)
    if config is not None:
        raise ConfigError("--config: a run has its own configuration", hint="change it with --set KEY=VALUE")
    run = open_run(target, prefer=BEST, overrides=overrides, progress=progress)
    check_writable(out or run.folder)
    return _Source(run.config, run.manifest, run.path, run.digest, len(run.state.history), run.folder, run)


@dataclass(frozen=True)
class _Loaded:
    """A network with its weights, on the device, and the data to evaluate it on.

    Attributes:
        task: the task.
        workload: data and network.
        runtime: device and precision.
        other: another data set to evaluate it on, with the same weights; None: its own.
    """

    task: Task
    workload: Workload
    runtime: Runtime
    other: Workload | None


def _load(source: _Source, split: str, data: Path | None, processes: Processes, progress: Progress) -> _Loaded:
    task, run = get_task(source.settings.task), source.run
    splits = (split,) if run is None else (split, *task.evaluation_splits)

    def build(settings: TaskConfig, manifest: Manifest, splits: Iterable[str]) -> tuple[Workload, Runtime]:
        return build_workload(
            settings,
            manifest,
            splits=dict.fromkeys(splits),
            pretrained=run is None,
            progress=progress,
            recorded=None if run is None else run.kept_runtime,
            processes=processes,
        )

    listed = None if data is None else _list_other(source.settings, source.manifest, data, progress)
    workload, runtime = build(source.settings, source.manifest, splits if listed is None else task.evaluation_splits)
    if run is not None:
        load_module(workload, run)
    place(workload.module, runtime)
    other = None
    if listed is not None:
        other, _ = build(*listed, ("test",))
        other.module.load_state_dict(workload.module.state_dict())
        place(other.module, runtime)
    return _Loaded(task, workload, runtime, other)


def _measure(
    loaded: _Loaded, split: str, corrupt: int | None, processes: Processes, progress: Progress
) -> tuple[EvaluationOutput, dict[str, Any]]:
    """Evaluate the network; return what the task found, and the results on corrupted pictures if they are asked for."""
    task, workload, other = loaded.task, loaded.workload, loaded.other
    together = {"processes": processes} if task.shares_evaluation else {}
    further: dict[str, Any] = {}
    with supervised(workload):
        if other is None:
            evaluation = task.evaluate(workload, split, loaded.runtime, progress, **together)
        else:
            evaluation = task.evaluate_other(workload, other, loaded.runtime, progress, **together)
        if corrupt is not None and processes.is_first:
            corrupted = (workload, split) if other is None else (other, "test")
            further["corruptions"] = task.evaluate_corrupted(
                *corrupted,
                runtime=loaded.runtime,
                calibration=_as_predict_uses_it(evaluation.calibration),
                num_samples=corrupt,
                progress=progress,
            )
    return evaluation, further


def _as_predict_uses_it(fitted: Mapping[str, Any] | None) -> Fitted:
    if not fitted:
        return Fitted()
    threshold = fitted.get("threshold")
    return Fitted(fitted["temperature"], fitted.get("bias"), 0.5 if threshold is None else threshold, fitted=True)


def _list_other(config: TaskConfig, manifest: Manifest, path: Path, progress: Progress) -> tuple[TaskConfig, Manifest]:
    """List another data set, with all samples in the test split and the classes of the run.

    Raises:
        ConfigError: the task cannot be evaluated on other data.
        DataError: the data cannot be used, or has other classes.
    """
    task = get_task(config.task)
    settings = task.config_for_other_data(config, path)
    if settings is None:
        raise ConfigError(f"--data: {config.task} cannot be evaluated on another data set")
    found = task.make_manifest(settings, progress)
    if set(found.classes) != set(manifest.classes):
        raise DataError(
            f"--data: {path} has the classes {_listed(found.classes)}, and the run has {_listed(manifest.classes)}",
            hint="rename the classes of the data: they are matched by name",
        )
    if not found.classes:  # samples have none
        return settings, replace(found, samples=tuple(replace(sample, split="test") for sample in found.samples))
    labels = [manifest.classes.index(name) for name in found.classes]
    roots = dict(zip(found.classes, found.roots, strict=True)) if found.roots else {}
    samples = tuple(replace(sample, label=labels[sample.label], split="test") for sample in found.samples)
    ordered = tuple(roots[name] for name in manifest.classes) if roots else ()
    return settings, replace(found, classes=manifest.classes, roots=ordered, samples=samples)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:8]) + (", …" if len(names) > 8 else "")


def _write(paths: Mapping[Path, bytes], folder: Path) -> list[Path]:
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


def _draw(
    report: Mapping[str, Any], files: Mapping[str, bytes], folder: Path, suffix: str, progress: Progress
) -> list[Path]:
    """Draw the figures. A failure is a warning and does not affect the others: the report is already written."""

    def failed(name: str, error: Exception) -> None:
        progress.warn(f"{_named(folder, f'{name}.png', suffix).name} could not be drawn: {message_of(error)}")

    figures = draw(get_task(report["task"]).figures(report, files.get), failed)
    paths = []
    for name, figure in figures.items():
        try:
            paths.append(save_figure(figure, _named(folder, f"{name}.png", suffix)))
        except Exception as error:
            failed(name, error)
    return paths


def _remove_outdated(report: Mapping[str, Any], folder: Path, suffix: str, drawn: Sequence[Path]) -> None:
    """Remove the figures of an earlier evaluation of the same split that this one did not draw."""
    for name in get_task(report["task"]).figure_names:
        path = _named(folder, f"{name}.png", suffix)
        if path not in drawn:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _suffix(split: str, data: Path | None) -> str:
    """The end of the names of files: empty for the test split, else the split or the name of another data set."""
    if data is None:
        return "" if split == "test" else f"-{split}"
    name = re.sub(r"[^\w.+=@-]+", "_", data.resolve().stem)[:60].strip(".")
    return f"-{name}-data" if name in ("", *SPLITS) else f"-{name}"


def _named(folder: Path, name: str, suffix: str) -> Path:
    stem, dot, ending = name.rpartition(".")
    return folder / f"{stem}{suffix}{dot}{ending}"
