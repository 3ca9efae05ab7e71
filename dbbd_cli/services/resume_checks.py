"""Whether a run that goes on is still the same run, and what a person is told about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import TaskConfig, to_plain
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted, printable
from dbbd_cli.engine.checkpoint.replay_check import verify_replay_check
from dbbd_cli.engine.runtime import Runtime, RuntimeRecord
from dbbd_cli.engine.trainer import Trainer
from dbbd_cli.runs.folder import CONFIG
from dbbd_cli.services.session import HARMLESS_SETTINGS, OpenedRun, value_at
from dbbd_cli.tasks.configs import load_config


def check_proof(
    trainer: Trainer, checkpoint: Mapping[str, Any], overrides: Sequence[Override], force: bool, progress: Progress
) -> None:
    """Replays the proof of the checkpoint, unless it has none or a setting was changed that the loss depends on."""
    proof, saved = checkpoint["proof"], checkpoint["config"]
    if proof is None:
        progress.line(
            "Resume not verified: this checkpoint has no replay check, because its next batch could not be loaded."
        )
        return
    changed = [o.key for o in overrides if o.key.split(".")[0] in ("data", "model", "loss")]
    changed = [
        key
        for key in changed
        if key not in HARMLESS_SETTINGS and value_at(saved, key) != value_at(to_plain(trainer.config), key)
    ]
    if changed:
        progress.line(f"Resume not verified, because {', '.join(changed)} changed.")
        return
    try:
        verify_replay_check(trainer.workload, trainer.runtime, proof)
    except CheckpointError as error:
        if not force:
            raise
        progress.warn(f"{error.message}. Continuing because of --force.")
        return
    before, now = proof.get("precision"), str(trainer.runtime.dtype)
    if before is not None and before != now and "runtime" not in checkpoint:
        progress.warn(
            f"the run was trained in {printable(before[:40])} so far, and continues in {now} here. To keep one, "
            "set run.precision to fp32 or bf16"
        )


def tell_of_runtime(recorded: RuntimeRecord | None, runtime: Runtime, progress: Progress) -> None:
    """Says so if the run continues in another precision, or on a device whose results differ in the last digits.

    Args:
        recorded: what the run was computed with so far; None in checkpoints of earlier versions.
        runtime: device and precision from now on.
        progress: receives the messages.
    """
    if recorded is None:
        return
    now = runtime.record()
    if recorded.precision != now.precision:
        progress.line(f"The run was trained in {recorded.precision} so far, and continues in {now.precision}.")
    before, after = _computed_on(recorded), _computed_on(now)
    if before != after:
        progress.line(
            f"The run was computed on {before} so far, and continues on {after}: its results will differ in the last "
            "digits from those of an uninterrupted run."
        )


def _computed_on(record: RuntimeRecord) -> str:
    """What determines the last digits of results, in words; on a GPU, they may differ anyway."""
    if record.device != "cpu":
        return record.device
    return f"a CPU ({printable(record.processor[:200])}) with {counted(record.threads, 'thread')}"


def tell_of_config(run: OpenedRun, overrides: Sequence[Override], progress: Progress) -> None:
    """Warns where the folder's configuration is another than the checkpoint's: edited, or of another run."""
    path = run.folder / CONFIG
    try:
        written = to_plain(load_config(str(path))) if path.is_file() else {}
    except ConfigError:  # damaged: it is about to be written anew
        return
    given = tuple(override.key for override in overrides)
    others = [
        f"{key} is {printable(str(value))[:40]} there and {printable(str(counts))[:40]} here"
        for key, value, counts in _differences(written, to_plain(run.config))
        if key != "data.cache_dir" and not f"{key}.".startswith(tuple(f"{one}." for one in given))
    ]
    if others:
        more = f", and {len(others) - 3} more" if len(others) > 3 else ""
        progress.warn(
            f"{CONFIG} differs from the configuration in {run.path.name}, which is used: "
            f"{'; '.join(others[:3])}{more}. Change settings with --set"
        )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], within: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys of nested mappings that both have, where their values differ."""
    found = []
    for key in one.keys() & other.keys():
        if isinstance(one[key], Mapping) and isinstance(other[key], Mapping):
            found += _differences(one[key], other[key], f"{within}{key}.")
        elif one[key] != other[key]:
            found.append((f"{within}{key}", one[key], other[key]))
    return sorted(found, key=lambda difference: difference[0])


def batches_changed(made_with: Mapping[str, Any], config: TaskConfig) -> bool:
    """Whether an epoch that was begun would go on with batches of another size."""
    now = config.training
    return (made_with["batch_size"], made_with["accumulate_batches"]) != (now.batch_size, now.accumulate_batches)


def tell_of_schedule(made_with: Mapping[str, Any], config: TaskConfig, progress: Progress) -> None:
    """Says so where the learning rate will not follow the curve that it would have followed in one go."""
    now = config.training
    if now.scheduler == "cosine" and now.scheduler_epochs is None and now.epochs != made_with["epochs"]:
        progress.line(
            f"The cosine schedule was planned for {counted(made_with['epochs'], 'epoch')}: this run will differ from "
            f"an uninterrupted {now.epochs}-epoch run. To avoid that, set training.scheduler_epochs from the start."
        )
