"""The replay check: a checkpoint stores the loss of its next batch, and resuming computes it again before any step.

A different loss means that data, code or device have changed, so that resuming would not continue the same run. The
check is stored under the key "proof", its name in the first versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from dbbd_cli import __version__
from dbbd_cli.core.errors import CheckpointError, DbbdError
from dbbd_cli.engine.processes import ALONE, Processes
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.sharding import without_gradient
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.workload import Workload

_TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3, "mps": 1e-3}
"""Largest relative difference of the loss: other processors and thread counts sum in another order."""
_SMALLEST_LOSS = 0.1
"""Smaller losses, which are dominated by rounding, get the absolute tolerance of this one."""
_NAMES_SHOWN = 8


def make_replay_check(
    workload: Workload, runtime: Runtime, state: TrainState, processes: Processes = ALONE
) -> dict[str, Any] | None:
    """The next batch and its loss, as plain values; None if that batch cannot be loaded.

    Changes neither weights nor statistics nor random streams: the forward pass is in evaluation mode.

    Args:
        workload: data and network.
        runtime: device and precision.
        state: where the run is.
        processes: those among which the network is divided, all of which call this.
    """
    loader = workload.loaders["train"]
    epoch, batch = (state.epoch, state.batch) if state.batch < len(loader) else (state.epoch + 1, 0)
    keys = loader.keys_of(epoch, batch)
    raw_batch = None
    with suppress(DbbdError, OSError):  # an unreadable sample: training reports it, after this state is saved
        raw_batch = loader.make(keys)
    if processes.agreed(int(raw_batch is None)):
        return None
    try:
        loss, names = _replay(workload, runtime, raw_batch)
    except (DbbdError, OSError):
        return None
    return {
        "epoch": epoch,
        "batch": batch,
        "samples": [index for _, index in keys],
        "names": names,
        "loss": loss,
        "device": runtime.device.type,
        "torch": str(torch.__version__),
        "dbbd": __version__,
    }


def verify_replay_check(workload: Workload, runtime: Runtime, saved: Mapping[str, Any]) -> None:
    """Compute the loss of a replay check again and compare.

    Raises:
        CheckpointError: the loss differs by more than devices and precisions explain, or the batch has other samples.
    """
    _check_fields(saved)
    epoch, batch, saved_loss = saved["epoch"], saved["batch"], saved["loss"]
    keys = [(epoch, index) for index in saved["samples"]]
    loader = workload.loaders["train"]
    where = f"batch {batch + 1} of epoch {epoch}"
    if any(not 0 <= index < loader.num_samples for _, index in keys):
        raise _refusal(f"{where} had samples that are no longer in the training split", [])
    # The start: of several processes, the first made the check of its share; and between epochs, batches may grow.
    if not loader.is_start_of(keys, epoch, batch):
        raise _refusal(f"{where} would consist of other samples than when the checkpoint was written", [])
    loss, names = _replay(workload, runtime, loader.make(keys))
    tolerance = max(_TOLERANCE.get(device, 1e-3) for device in (saved["device"], runtime.device.type))
    if loss == saved_loss or (math.isnan(loss) and math.isnan(saved_loss)):
        return
    if abs(loss - saved_loss) <= tolerance * max(abs(saved_loss), _SMALLEST_LOSS):
        return
    details = [f"samples: {_shortened(names)}"]
    if names != saved["names"]:
        details.append(f"samples before: {_shortened(saved['names'])}")
    now = {"device": runtime.device.type, "torch": str(torch.__version__), "dbbd": __version__}
    details += [f"{name}: {saved[name]} before, {value} now" for name, value in now.items() if saved[name] != value]
    raise _refusal(
        f"the loss of {where} was {saved_loss:.7g} when the checkpoint was written, and is now {loss:.7g}", details
    )


def _shortened(names: list[Any]) -> str:
    return ", ".join(map(str, names[:_NAMES_SHOWN])) + (", …" if len(names) > _NAMES_SHOWN else "")


def _check_fields(saved: Any) -> None:
    """Raise if the values are not from `make_replay_check`: a checkpoint may come from anyone."""
    types = {"epoch": int, "batch": int, "samples": list, "names": list, "loss": float}
    types |= dict.fromkeys(("device", "torch", "dbbd"), str)
    if (
        not isinstance(saved, Mapping)
        or any(type(saved.get(name)) is not kind for name, kind in types.items())
        or not saved["samples"]
        or not all(type(index) is int for index in saved["samples"])
        or not 0 <= saved["epoch"] < 2**31
    ):
        raise CheckpointError(
            "the replay check in the checkpoint is invalid: expected a batch with its samples and loss",
            hint="use another checkpoint",
        )


def _refusal(message: str, details: list[str]) -> CheckpointError:
    return CheckpointError(
        f"resuming would not continue the same run: {message}",
        details=details,
        hint="restore the data, code and versions of the run (see its environment.json), or resume anyway with --force",
    )


def _replay(workload: Workload, runtime: Runtime, raw_batch: Any) -> tuple[float, list[str]]:
    """The loss of a batch in evaluation mode, and the names of its samples.

    Always in fp32: bf16 would hide most changes.
    """
    training = workload.module.training
    workload.module.eval()
    try:
        with without_gradient(workload.module):
            loss = workload.module(*workload.to_device(raw_batch, runtime.device, train=True)).loss
        return float(loss), workload.names(raw_batch, "train")
    finally:
        workload.module.train(training)
