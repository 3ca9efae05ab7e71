"""The position of a run: everything in a checkpoint except tensors, settings and random states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

import torch

from dbbd_cli.data.loader import Share
from dbbd_cli.model.output import DeferredMetric, StepOutput


@dataclass
class _Pending:
    """A batch whose values are still on the device.

    Attributes:
        num_samples: samples in the batch that this process computes.
        total: samples in the whole batch, to whose loss this process adds a part.
        names: names of the values; the elements of vectors come last.
        values: `(V,)`; zero for deferred metrics.
        deferred: the deferred metrics, by position.
        counts: `()`, whether the batch counts; None if it always does.
    """

    num_samples: int
    total: int
    names: list[str]
    values: torch.Tensor
    deferred: dict[int, DeferredMetric]
    counts: torch.Tensor | None = None


@dataclass
class Sums:
    """Sums over the samples of an epoch, in double precision and in the order of the batches.

    Values stay on the device until they are read, so that adding never waits for it.
    """

    values: dict[str, float] = field(default_factory=dict)
    num_samples: int = 0
    _pending: list[_Pending] = field(default_factory=list, repr=False)

    def add(self, output: StepOutput, share: Share | None = None) -> None:
        """Add the loss and the metrics of a batch, or of a share of it."""
        loss = output.loss.detach().float()
        counted, total = (output.num_samples, output.num_samples) if share is None else (share.samples, share.total)
        metrics = output.metrics if counted else {}
        vectors = {k: v for k, v in metrics.items() if not isinstance(v, DeferredMetric) and v.dim()}
        names = ["loss", *(name for name in metrics if name not in vectors)]
        values, deferred = [loss], {}
        for position, name in enumerate(names[1:], start=1):
            value = metrics[name]
            if isinstance(value, DeferredMetric):
                deferred[position] = value
            values.append(torch.zeros_like(loss) if isinstance(value, DeferredMetric) else value.detach().float())
        stacked = torch.stack(values)
        if vectors:
            stacked = torch.cat([stacked, *(vector.detach().float() for vector in vectors.values())])
            names += [place for name, vector in vectors.items() for place in _places(name, len(vector))]
        self._pending.append(_Pending(counted, total, names, stacked, deferred))

    def count_if(self, finite: torch.Tensor, num_batches: int) -> None:
        """Count the last batches only if `finite` `()` is true."""
        for batch in self._pending[-num_batches:]:
            batch.counts = finite

    def flush(self) -> None:
        """Read the pending values from the device."""
        batches = list(self._pending)
        self._pending.clear()
        counts = [batch.counts for batch in batches if batch.counts is not None]
        # All at once, because each read waits for a GPU.
        read = iter(torch.cat([batch.values for batch in batches]).tolist() if batches else [])
        counted = iter(torch.stack(counts).tolist() if counts else [])
        for batch in batches:
            values = [next(read) for _ in batch.names]
            if batch.counts is not None and not next(counted):
                continue
            for position, metric in batch.deferred.items():
                values[position] = metric.compute(metric.tensor.cpu()) * batch.num_samples
            values[0] *= batch.total
            for name, value in zip(batch.names, values, strict=True):
                self.values[name] = self.values.get(name, 0.0) + value
            self.num_samples += batch.num_samples

    @classmethod
    def of(cls, parts: Iterable[Mapping[str, Any]]) -> Sums:
        """The sums over several parts, added in their order; the parts are what `plain` returned."""
        sums = cls()
        for part in parts:
            for name, value in part["values"].items():
                sums.values[name] = sums.values.get(name, 0.0) + value
            sums.num_samples += part["num_samples"]
        return sums

    def plain(self) -> dict[str, Any]:
        """The sums as plain values."""
        self.flush()
        return {"values": dict(self.values), "num_samples": self.num_samples}


@dataclass
class TrainState:
    """The position of a run, what is best so far, and its history."""

    epoch: int = 1
    """Current epoch, from 1; one more than the last when all are done."""
    batch: int = 0
    """Batches of this epoch that have been trained on."""
    step: int = 0
    """Optimizer steps since the run began."""
    skipped_steps: int = 0
    """Steps that were skipped because their loss or gradient was not finite."""
    best_value: float = math.inf
    """Cost of the best epoch: the value of the deciding metric, or its negative if higher is better."""
    best_epoch: int = 0
    patience_value: float = math.inf
    """Lowest cost so far for early stopping; a cost that is lower by less than min_delta does not change it."""
    patience_epochs: int = 0
    """Epochs since then."""
    stopped_early: bool = False
    seconds: float = 0.0
    """Training time without interruptions."""
    seconds_at_epoch: float = 0.0
    """Training time at the start of the current epoch."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry per finished epoch, as in history.jsonl."""
    sums: Sums = field(default_factory=Sums)
    """Sums of the current epoch."""

    def end_epoch(self, row: Mapping[str, Any]) -> float:
        """Add the epoch to the history and move on to the next one; return the seconds it took."""
        self.history.append(dict(row))
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, Sums()
        seconds, self.seconds_at_epoch = self.seconds - self.seconds_at_epoch, self.seconds
        return seconds

    def update_best(self, cost: float, patience: int | None, min_delta: float) -> bool:
        """Update the best cost and early stopping with this epoch's cost; return whether it is the best so far."""
        if cost < self.patience_value - min_delta:
            self.patience_value, self.patience_epochs = cost, 0
        else:
            self.patience_epochs += 1
        self.stopped_early = patience is not None and self.patience_epochs >= patience
        if cost < self.best_value:
            self.best_value, self.best_epoch = cost, self.epoch
            return True
        return False

    def to_plain(self) -> dict[str, Any]:
        """Plain values for a checkpoint, which later training does not change."""
        return {**self.__dict__, "history": list(self.history), "sums": self.sums.plain()}

    @staticmethod
    def from_plain(values: Any) -> TrainState:
        """Read what `to_plain` returned.

        Raises:
            ValueError: the values are invalid.
        """
        if not isinstance(values, Mapping) or values.keys() != {field.name for field in fields(TrainState)}:
            raise ValueError("the state of the run lacks fields, or has unknown ones")
        for name in ("epoch", "batch", "step", "skipped_steps", "best_epoch", "patience_epochs"):
            _require(type(values[name]) is int and 0 <= values[name] < 2**53, name)
        for name in ("best_value", "patience_value", "seconds", "seconds_at_epoch"):
            _require(type(values[name]) is float, name)
        _require(type(values["stopped_early"]) is bool, "stopped_early")
        history, sums = values["history"], values["sums"]
        _require(isinstance(history, list) and len(history) == values["epoch"] - 1, "history")
        for row in history:
            _require(
                isinstance(row, Mapping)
                and type(row.get("step")) is int
                and _are_numbers(row.get("train"))
                and _are_numbers(row.get("val")),
                "history",
            )
        _require(values["best_epoch"] <= len(history), "best_epoch")
        _require(isinstance(sums, Mapping) and sums.keys() == {"values", "num_samples"}, "sums")
        _require(_are_numbers(sums["values"]) and type(sums["num_samples"]) is int, "sums")
        return TrainState(**{**values, "sums": Sums(dict(sums["values"]), sums["num_samples"])})


@cache
def _places(name: str, length: int) -> list[str]:
    """The names of a vector's elements in the sums."""
    return [f"{name}_{place}" for place in range(length)]


def _require(holds: bool, name: str) -> None:
    if not holds:
        raise ValueError(f"its {name} is invalid")


def _are_numbers(values: object) -> bool:
    return isinstance(values, Mapping) and all(
        isinstance(name, str) and type(value) is float for name, value in values.items()
    )
