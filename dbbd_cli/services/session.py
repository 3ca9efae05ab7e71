"""What the commands share: opening an existing run, and building data, network and runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import TaskConfig, changed_settings
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError, reason_of
from dbbd_cli.core.limits import is_memory_limited
from dbbd_cli.core.paths import shown_path
from dbbd_cli.core.processes import Member
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import capitalized, printable
from dbbd_cli.data.cache import is_cache_folder
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import UnreadableCheckpointError, checkpoint_names, load_checkpoint
from dbbd_cli.engine.checkpoint.shards import with_whole_tensors
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import (
    Runtime,
    RuntimeRecord,
    choose_runtime,
    count_parameters,
    keep_freed_memory,
    size_mb,
    start_threads,
)
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.engine.workload import Workload
from dbbd_cli.model.digest import stored_digest
from dbbd_cli.model.weights import check_finite, load_tensors
from dbbd_cli.runs.folder import SPLITS, is_run_folder
from dbbd_cli.services.preparation import report_cache_folder, with_absolute_paths
from dbbd_cli.services.results import RunFacts
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.registry import get_task


@dataclass(frozen=True)
class OpenedRun:
    """A checkpoint, with everything needed to use it.

    Attributes:
        folder: its run folder.
        path: the checkpoint's file.
        digest: its digest, when it was read: a run that trains may replace it.
        checkpoint: its content.
        saved: its configuration.
        config: the same, with the overrides of the command line.
        state: where the run was.
        manifest: the samples of the run and their splits.
        recorded: what the run was computed with.
        kept_runtime: whose precision `run.precision: auto` keeps; None if the command line sets the precision.
        saved_batch_size: samples of its batches, of all processes together.
        batch_size: the same from now on; 0: `training.batch_size` in each process, because the command line sets it.
    """

    folder: Path
    path: Path
    digest: str | None
    checkpoint: dict[str, Any]
    saved: TaskConfig
    config: TaskConfig
    state: TrainState
    manifest: Manifest
    recorded: RuntimeRecord
    kept_runtime: RuntimeRecord | None
    saved_batch_size: int
    batch_size: int


def open_run(
    target: Path,
    *,
    prefer: str,
    overrides: Sequence[Override],
    force: bool = False,
    progress: Progress,
    member: Member | None = None,
    divided: bool = False,
) -> OpenedRun:
    """Open a run folder or a checkpoint file.

    Args:
        target: a run folder, or a checkpoint inside one.
        prefer: the checkpoint to use if `target` is a run folder.
        overrides: settings that replace those of the run.
        force: whether to accept a list of samples that has changed.
        progress: receives a warning if a damaged checkpoint is skipped.
        member: this process, if several open the run: only the first of a machine reports errors.
        divided: whether the tensors that processes divide among them (`run.shard_model`) are left to the trainer.

    Raises:
        CheckpointError: there is no usable checkpoint.
        ConfigError: an override is invalid.
    """
    with (member or Member()).reporting_once():
        return _opened(target, prefer, overrides, force, progress, divided)


def _opened(
    target: Path,
    prefer: str,
    overrides: Sequence[Override],
    force: bool,
    progress: Progress,
    divided: bool,
) -> OpenedRun:
    path, checkpoint = find_checkpoint(target.resolve(), prefer, progress, whole=not divided)
    digest = stored_digest(path)
    _check_task(path, checkpoint["config"])
    try:
        saved = with_absolute_paths(config_from_mapping(checkpoint["config"], origin=str(path)))
        state = TrainState.from_plain(checkpoint["state"])
        recorded = RuntimeRecord.from_plain(checkpoint["runtime"])
    except (ConfigError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a usable checkpoint: {error}",
            details=getattr(error, "details", ()),
            hint="use another one of the run",
        ) from error
    config = with_absolute_paths(config_from_mapping(checkpoint["config"], overrides, origin=str(path)))
    _refuse_fixed(saved, config)
    if not config.run.shard_model:
        checkpoint = with_whole_tensors(checkpoint, path)
    config = _with_own_cache(config, overrides, progress)
    report_cache_folder(config, progress)
    manifest = _manifest_of_run(path, config, checkpoint["splits"], force, progress)
    precision_given = any(override.key in ("run", "run.precision") for override in overrides)
    kept_runtime = None if precision_given else recorded
    saved_batch_size = checkpoint["runtime"].get("batch_size", saved.training.batch_size)
    batch_size_given = any(override.key in ("training", "training.batch_size") for override in overrides)
    return OpenedRun(
        path.parent, path, digest, checkpoint, saved, config, state, manifest, recorded, kept_runtime,
        saved_batch_size, 0 if batch_size_given else saved_batch_size,
    )  # fmt: skip


def _check_task(path: Path, config: Any) -> None:
    """Check that the task of a checkpoint is installed; its settings mean nothing without it."""
    try:
        if isinstance(config, Mapping) and isinstance(config.get("task"), str):
            get_task(config["task"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error.message}", hint="install the package that provides the task") from error


def find_checkpoint(
    target: Path, prefer: str, progress: Progress, *, whole: bool = True
) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that `target` means, a file or a run folder.

    Args:
        target: a run folder, or a checkpoint inside one.
        prefer: the checkpoint to use if `target` is a run folder.
        progress: receives a warning if a damaged checkpoint is skipped.
        whole: whether to read the tensors that processes had divided.

    Returns:
        Its file and its content.

    Raises:
        CheckpointError: there is no usable checkpoint.
    """
    if target.is_dir():
        return _first_usable(target, prefer, progress, whole)
    if target.is_file() and not is_run_folder(target.parent):
        load_tensors(target, objects=True)  # report a damaged or unsafe file first
        raise CheckpointError(
            f"{target} is not in a run folder: there is no {SPLITS} next to it",
            hint="pass a run folder, or a .pth file inside one; weights alone are for train with --set "
            "model.weights=PATH, and for evaluate if their task supports it",
        )
    return target, load_checkpoint(target, whole=whole)


def _manifest_of_run(checkpoint: Path, config: TaskConfig, digest: object, force: bool, progress: Progress) -> Manifest:
    """The list of samples of a run. If it is lost and the data is synthetic, it is rebuilt and stored.

    Args:
        checkpoint: path of a checkpoint of the run.
        config: the configuration of the run.
        digest: digest of the list that the checkpoint was made with.
        force: whether to accept another list.
        progress: receives warnings.

    Raises:
        CheckpointError: it is missing or damaged, or is another list.
    """
    path, lost, manifest = checkpoint.with_name(SPLITS), None, None
    try:
        manifest = Manifest.load(path)
        if manifest.digest() == digest:
            return manifest
    except CheckpointError as error:
        lost = error
    if config.is_synthetic:
        rebuilt = get_task(config.task).make_manifest(config, progress)
        if rebuilt.digest() == digest:
            what = "does not match the run" if lost is None else "is damaged" if path.exists() else "is missing"
            progress.warn(f"{path} {what}. It was rebuilt from the settings and matches the checkpoint.")
            with suppress(OSError):  # the folder may be read-only
                rebuilt.write(path)
            return rebuilt
    if manifest is None:
        assert lost is not None
        raise lost
    message = f"{path} is not the one that {checkpoint.name} was made with: samples could change their split"
    if not force:
        raise CheckpointError(
            message, hint="restore it from a copy of the run folder, or use it anyway with resume --force"
        )
    progress.warn(f"{message}. Continuing because of --force.")
    return manifest


def _with_own_cache(config: TaskConfig, overrides: Sequence[Override], progress: Progress) -> TaskConfig:
    """The configuration without a cache folder that comes only from the checkpoint.

    Files are written to and removed from that folder, and the checkpoint may come from anyone.
    """
    folder = config.data.cache_dir
    if (
        folder is None
        or is_cache_folder(Path(folder))
        or any(override.key in ("data", "data.cache_dir") for override in overrides)
    ):
        return config
    progress.line(
        f"{printable(folder)}, the data.cache_dir of the run, is not a dbbd cache on this machine; using the default. "
        "To use another, add --set data.cache_dir=DIR"
    )
    return config.model_copy(update={"data": config.data.model_copy(update={"cache_dir": None})})


def _refuse_fixed(saved: TaskConfig, config: TaskConfig) -> None:
    """Raise if an override changes a setting that is fixed once a run has started."""
    changed = changed_settings(saved, config, config.fixed_settings)
    if changed:
        raise ConfigError(
            "these settings cannot change after a run has started",
            details=[f"{key} is {before!r} in the run, not {after!r}" for key, (before, after) in changed.items()],
            hint="leave them out, or start a new run with dbbd train",
        )


def _first_usable(folder: Path, prefer: str, progress: Progress, whole: bool) -> tuple[Path, dict[str, Any]]:
    """The preferred checkpoint, or the first usable one if that is damaged or missing."""
    names = [prefer, *[name for name in checkpoint_names(folder) if name != prefer]]
    problems = []
    for name in names:
        path = folder / name
        if not path.exists():
            continue
        try:
            checkpoint = load_checkpoint(path, whole=whole)
        except UnreadableCheckpointError:
            raise
        except CheckpointError as error:
            problems.append(error.message)
            continue
        if problems:
            progress.warn(f"{'; '.join(problems)}. Using {name} instead.")
        elif name != prefer:
            progress.line(f"{shown_path(folder)} has no {prefer}; using {name}.")
        return path, checkpoint
    if problems:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used",
            details=problems,
            hint="nothing was deleted; restore a checkpoint from a copy, or start a new run",
        )
    raise CheckpointError(
        f"{folder} has no checkpoint",
        hint="pass a run folder created by dbbd train",
    )


def build_workload(
    config: TaskConfig,
    manifest: Manifest,
    *,
    splits: Iterable[str],
    pretrained: bool,
    progress: Progress,
    recorded: RuntimeRecord | None = None,
    processes: Processes = ALONE,
) -> tuple[Workload, Runtime]:
    """Build data, network and runtime of a run.

    Args:
        config: the resolved configuration.
        manifest: the samples and their splits.
        splits: splits to make loaders for.
        pretrained: whether to load `model.weights`.
        progress: receives progress of preparing data, and warnings.
        recorded: what an existing run was computed with; `run.precision: auto` keeps its precision.
        processes: those that train together; each has a GPU of its own, if there are any.
    """
    splits = tuple(splits)
    for split in splits:
        if not manifest.of(split):
            raise DataError(f"the run has no {split} split", hint="choose another one with --split: train or val")
    if is_memory_limited():
        start_threads()
    runtime = choose_runtime(
        processes.device(config.run.device),
        config.run.precision,
        bf16_on_cpu=config.bf16_on_cpu,
        recorded=recorded,
    )
    if runtime.is_slow:
        why = (
            "neither AMX nor AVX-512 BF16 instructions are available, and without them a CPU can take up to 200 times "
            "as long as in fp32"
            if runtime.device.type == "cpu"
            else "this GPU has no instructions for it"
        )
        progress.warn(f"bf16 is slow here: {why}. To compute in fp32, add --set run.precision=fp32")
    if runtime.device.type == "cpu":
        keep_freed_memory()
    pin_memory = runtime.device.type == "cuda"
    workload = get_task(config.task).build(
        config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory, progress=progress
    )
    return workload, runtime


def require_shared_batches(workload: Workload, processes: Processes) -> None:
    """Check that several processes can train together.

    Raises:
        ConfigError: they cannot.
    """
    if processes.size > 1 and not workload.shares_batches:
        raise ConfigError(
            f"{workload.model_name} trains in one process, and {processes.size} were started",
            hint="start it without --nproc, torchrun or srun",
            all_have_it=True,
        )


def require_shardable(workload: Workload, runtime: Runtime, config: TaskConfig, processes: Processes) -> None:
    """Check that the network can be divided among processes, if it is to be.

    Raises:
        ConfigError: it cannot.
    """
    if not config.run.shard_model or processes.size == 1:
        return
    if getattr(workload.module, "skips_parameters", False):
        raise ConfigError(
            f"run.shard_model: {workload.model_name} cannot be divided, because a pass may leave out some weights",
            hint="set it to false: each process then has the whole network",
            all_have_it=True,
        )
    if runtime.dtype == torch.float16:
        raise ConfigError(
            "run.shard_model: the network cannot be divided in fp16",
            hint="use bf16 or fp32 with run.precision",
            all_have_it=True,
        )


def describe(trainer: Trainer, manifest: Manifest) -> RunFacts:
    """The facts of a run, for headers and results."""
    config, workload, runtime, processes = trainer.config, trainer.workload, trainer.runtime, trainer.processes
    samples, batch_size = manifest.counts(), trainer.batch_size
    notes = dict(get_task(config.task).notes(config, manifest))
    if processes.size > 1 or batch_size != config.training.batch_size:
        batches = f"for batches of {batch_size:,} {workload.sample_unit}"
        notes["Processes"] = f"{processes.size:,}, {batches}; learning rate {config.training.learning_rate:.3g}"
    if config.run.shard_model:
        notes["Network"] = "divided among the processes" if processes.size > 1 else "whole: there is only one process"
    return RunFacts(
        task=config.task,
        sample_unit=workload.sample_unit,
        progress_metrics=workload.progress_metrics,
        data=workload.data_description,
        synthetic=config.is_synthetic,
        device=runtime.description,
        precision=runtime.precision,
        model=workload.model_name,
        parameters=count_parameters(workload.module),
        size_mb=size_mb(workload.module),
        samples=samples,
        batches={split: -(-count // batch_size) for split, count in samples.items()},
        skipped=len(manifest.skipped),
        limited_from=dict(manifest.limited_from),
        notes=notes,
    )


def show_facts(facts: RunFacts, progress: Progress, *, run: Path | None = None) -> None:
    """Show the header of a run."""
    rows = {
        "Data": facts.data,
        capitalized(facts.sample_unit): facts.samples_in_words(),
        "Batches": " / ".join(f"{count:,} {split}" for split, count in facts.batches.items()),
        "Model": f"{facts.model}, {facts.parameters:,} parameters, {facts.size_mb:.2f} MB",
        "Device": facts.device,
        "Precision": facts.precision,
    }
    rows |= facts.notes
    if facts.synthetic:
        rows = {"SYNTHETIC": "the numbers of this run say nothing about real data", **rows}
    if facts.skipped:
        rows["Skipped"] = f"{facts.skipped:,}; see {SPLITS} for the reasons"
    if run is not None:
        rows["Run folder"] = shown_path(run)
    progress.facts("Run", rows)


def load_module(workload: Workload, run: OpenedRun) -> None:
    """Load the weights of a checkpoint into the workload's network.

    Raises:
        CheckpointError: they do not match, or are not finite.
    """
    check_finite(run.checkpoint["module"], run.path)
    try:
        workload.module.load_state_dict(run.checkpoint["module"])
    except Exception as error:  # of any kind, as the file may contain anything
        raise CheckpointError(
            f"{run.path} does not match this configuration: {reason_of(error)}",
            hint="leave out the --set that changes the network",
        ) from error
    run.checkpoint.clear()  # half a gigabyte for qr_cnn
