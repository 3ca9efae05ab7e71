"""The proof that a run goes on as it would have: a checkpoint carries the loss of the batch that comes next.

When it is resumed, that batch is made again and its loss computed again, without a step. Where the data, the code or
the device give another loss, the run would not go on but become another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dbbd_cli import __version__
from dbbd_cli.core.errors import CheckpointError, DbbdError
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.engine.state import TrainState
from dbbd_cli.engine.workload import Workload

_TOLERANCE = {"cpu": 1e-4, "cuda": 1e-3, "mps": 1e-3}
"""Largest difference of the loss, relative: other processors and threads add up in other orders."""
_SMALLEST = 0.1
"""Losses below are compared as if they were so large: what is left of them is mostly rounding."""
_NAMES_SHOWN = 8


def make_replay_check(workload: Workload, runtime: Runtime, state: TrainState) -> dict[str, Any] | None:
    """The next batch and its loss, as plain values; None where that batch cannot be made.

    Changes neither weights nor statistics nor random streams: the forward pass is that of validation.
    """
    loader = workload.loaders["train"]
    epoch, batch = (state.epoch, state.batch) if state.batch < len(loader) else (state.epoch + 1, 0)
    keys = loader.keys_of(epoch, batch)
    try:
        loss, names = _replay(workload, runtime, keys)
    except (DbbdError, OSError):  # a sample that cannot be read: training will tell of it, after this state is saved
        return None
    return {
        "epoch": epoch,
        "batch": batch,
        "samples": [index for _, index in keys],
        "names": names,
        "loss": loss,
        "device": runtime.device.type,
        "precision": str(runtime.dtype),
        "torch": str(torch.__version__),
        "dbbd": __version__,
    }


def verify_replay_check(workload: Workload, runtime: Runtime, proof: Mapping[str, Any]) -> None:
    """Replays a proof.

    Raises:
        CheckpointError: the loss is another one than when the checkpoint was written, by more than the devices and
            precisions allow, or the order of the samples is.
    """
    _require_form(proof)
    epoch, batch, saved = proof["epoch"], proof["batch"], proof["loss"]
    keys = [(epoch, index) for index in proof["samples"]]
    loader = workload.loaders["train"]
    where = f"batch {batch + 1} of epoch {epoch}"
    if any(not 0 <= index < loader.num_samples for _, index in keys):
        raise _refusal(f"{where} had samples that the training split does not have now", [])
    if len(keys) == loader.batch_size and loader.keys_of(epoch, batch) != keys:
        raise _refusal(f"{where} would consist of other samples than it did when the checkpoint was written", [])
    loss, names = _replay(workload, runtime, keys)
    tolerance = max(_TOLERANCE.get(device, 1e-3) for device in (proof["device"], runtime.device.type))
    if loss == saved or (math.isnan(loss) and math.isnan(saved)):
        return
    if abs(loss - saved) <= tolerance * max(abs(saved), _SMALLEST):
        return
    details = [f"samples: {', '.join(names[:_NAMES_SHOWN])}{', …' if len(names) > _NAMES_SHOWN else ''}"]
    if names != proof["names"]:
        details.append(f"then they were: {', '.join(map(str, proof['names'][:_NAMES_SHOWN]))}")
    now = {"device": runtime.device.type, "torch": str(torch.__version__), "dbbd": __version__}
    details += [f"{name}: {proof[name]} then, {value} now" for name, value in now.items() if proof[name] != value]
    raise _refusal(
        f"the loss of {where} was {saved:.7g} when the checkpoint was written, and is {loss:.7g} now", details
    )


def _require_form(proof: Any) -> None:
    """Raises where a proof is not what `make_replay_check` gave: a checkpoint may come from a stranger."""
    forms = {"epoch": int, "batch": int, "samples": list, "names": list, "loss": float}
    forms |= dict.fromkeys(("device", "torch", "dbbd"), str)
    whole = isinstance(proof, Mapping) and all(type(proof.get(name)) is form for name, form in forms.items())
    if (
        not whole
        or not proof["samples"]
        or not all(type(index) is int for index in proof["samples"])
        or not 0 <= proof["epoch"] < 2**31
        or not isinstance(proof.get("precision", ""), str)  # earlier versions wrote none
    ):
        raise CheckpointError("the proof in the checkpoint is not what it should be", hint="use another checkpoint")


def _refusal(message: str, details: list[str]) -> CheckpointError:
    return CheckpointError(
        f"this would not be the same run: {message}",
        details=details,
        hint="bring back the data, code and versions of the run (see its environment.json), or go on regardless "
        "with --force",
    )


def _replay(workload: Workload, runtime: Runtime, keys: list[tuple[int, int]]) -> tuple[float, list[str]]:
    """The loss of a batch in a forward pass, and the names of its samples.

    In fp32, whatever the run trains in: bf16 would hide most of what changes.
    """
    raw_batch = workload.loaders["train"].make(keys)
    training = workload.module.training
    workload.module.eval()
    try:
        with torch.inference_mode():
            loss = workload.module(*workload.to_device(raw_batch, runtime.device, train=True)).loss
        return float(loss), workload.names(raw_batch, "train")
    finally:
        workload.module.train(training)
