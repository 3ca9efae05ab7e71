"""The smallest workload the engine can train: a line through points, with and without batch normalization."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.signals import StopRequest
from dbbd_cli.data.loader import BatchLoader, Key
from dbbd_cli.engine.runtime import Runtime, choose_runtime
from dbbd_cli.engine.trainer import Run, Trainer, fit
from dbbd_cli.model.output import StepOutput
from dbbd_cli.runs.log import RunLog
from dbbd_cli.tasks.configs import config_from_mapping

CPU = choose_runtime("cpu", "fp32")


class Line:
    """Points of y = 2x."""

    def __init__(self, count: int = 10) -> None:
        self.x = torch.linspace(-1, 1, count)[:, None]
        self.y = 2 * self.x

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, keys: list[Key]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        index = np.asarray([key[1] for key in keys])
        return self.x[index], self.y[index], index


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> StepOutput:
        errors = (self.layer(x) - y).square()
        return StepOutput(loss=errors.mean(), metrics={"error": errors.detach().sum()}, num_samples=len(x))


class LineWorkload:
    """The smallest workload: the engine needs nothing else."""

    monitor = "loss"
    sample_unit = "points"
    progress_metrics = ("loss",)
    model_name = "a line"
    data_description = "points of y = 2x"
    shares_batches = False
    out_of_memory_hint = "draw fewer points"

    def __init__(self, batch_size: int = 4) -> None:
        self.module: nn.Module = Regression()
        self.lr_factors: Mapping[str, float] = {}
        self.train, self.val = Line(), Line()
        self.loaders: Mapping[str, BatchLoader] = {
            "train": BatchLoader(self.train, batch_size=batch_size, shuffle=True, seed=1),
            "val": BatchLoader(self.val, batch_size=batch_size, shuffle=False, seed=1),
        }

    def to_device(self, batch: Any, device: torch.device, *, train: bool) -> tuple[Any, ...]:
        return batch[0], batch[1]

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        return {name: value / num_samples for name, value in sums.items()}

    def warning(self, metrics: Mapping[str, float]) -> str:
        return ""

    def names(self, batch: Any, split: str) -> list[str]:
        return [f"{split}/{index}" for index in batch[2]]


class NormalizedWorkload(LineWorkload):
    """A line with batch normalization, whose statistics change in each forward pass."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size)
        self.module = Normalized()


class Normalized(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> StepOutput:
        return super().forward(self.norm(x), y)


class AsyncRuntime(Runtime):
    """The CPU, treated as a device whose kernels run asynchronously: values are read at logging intervals only."""

    @property
    def is_async(self) -> bool:
        return True


def config(log_every_steps: int = 1, **training: Any) -> TaskConfig:
    values = {
        "task": "image_classification",
        "run": {"log_every_steps": log_every_steps},
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.1, **training},
    }
    return config_from_mapping(values, origin="test")


def start(
    workload: LineWorkload,
    folder: Path,
    settings: TaskConfig,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
    runtime: Runtime = CPU,
) -> Run:
    """A run at its first step."""
    log = RunLog(folder, step=0, history=[], command=[])
    return Run(
        Trainer(workload, settings, runtime), folder, log, progress or Silent(), StopRequest() if stop is None else stop
    )


def train(
    workload: LineWorkload,
    folder: Path,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
    runtime: Runtime = CPU,
    **training: Any,
) -> Trainer:
    """Train to the end; on an asynchronous runtime, values are read once per epoch."""
    settings = config(1000 if runtime.is_async else 1, **training)
    run = start(workload, folder, settings, stop, progress, runtime)
    with run.log:
        fit(run)
    return run.trainer


def weight(workload: LineWorkload) -> float:
    return float(workload.module.layer.weight.detach())  # type: ignore[union-attr,operator]
