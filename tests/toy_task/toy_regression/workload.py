"""What the engine trains: rows, a network and its loss."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.model.output import StepOutput
from dbbd_cli.model.processes import part_of_mean
from toy_regression.config import PROGRESS_METRICS, SAMPLE_UNIT, ToyConfig

# B = rows of a batch, D = features.


class Regressor(nn.Module):
    """A network with one hidden layer, and the mean squared error."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, hidden_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.network = nn.Sequential(nn.Linear(len(mean), hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, 1))

    def forward(self, features: torch.Tensor, target: torch.Tensor) -> StepOutput:
        """The loss of features `(B, D)` and targets `(B,)`; metrics are sums over the batch."""
        prediction = self.network((features - self.mean) / self.std)
        error = prediction.squeeze(1) - target
        return StepOutput(
            loss=part_of_mean(error.square().mean()),
            metrics={"mae": error.abs().sum(), "target": target.sum(), "target_squared": target.square().sum()},
            num_samples=len(target),
            logits=prediction,
        )


class RowDataset:
    """Makes a batch of the requested rows: their positions, features and targets."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.from_numpy(table).float()

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
        """The batch of `keys`, each (epoch, position)."""
        positions = torch.tensor([position for _, position in keys])
        rows = self.table[positions]
        return positions, rows[:, :-1], rows[:, -1]


class ToyWorkload:
    """The `Workload` of the task."""

    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    shares_batches = True
    out_of_memory_hint = "lower training.batch_size"
    model_name = "one hidden layer"

    def __init__(
        self, config: ToyConfig, manifest: Manifest, table: np.ndarray, *, splits: Iterable[str], pin_memory: bool
    ) -> None:
        self.manifest = manifest
        self.monitor = config.checkpoint.metric
        self.lr_factors: Mapping[str, float] = {}  # the same for all parameters
        self.data_description = config.data.path or "synthetic rows"
        if [hashlib.sha256(row.tobytes()).hexdigest() for row in table] != [s.sha256 for s in manifest.samples]:
            raise DataError(f"{self.data_description} changed since the run was started", hint="restore the file")
        rows = {
            split: table[[sample.split == split for sample in manifest.samples]] for split in ("train", "val", "test")
        }
        features = torch.from_numpy(rows["train"][:, :-1]).float()
        self.mean_target = float(rows["train"][:, -1].mean())
        self.module = Regressor(features.mean(0), features.std(0).clamp_min(1e-6), config.model.hidden_dim)
        self.loaders = {
            split: BatchLoader(
                RowDataset(rows[split]),
                batch_size=config.training.batch_size,
                shuffle=split == "train",
                seed=config.seed,
                num_workers=config.data.num_workers,
                worker_timeout=config.data.worker_timeout,
                batches_in_use=config.training.accumulate_batches if split == "train" else 1,
                pin_memory=pin_memory,
            )
            for split in splits
        }

    def to_device(self, batch: Any, device: torch.device, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `(B, D)` and targets `(B,)`, the arguments of the module."""
        _, features, target = batch
        return features.to(device), target.to(device)

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Mean squared error, mean absolute error and R²."""
        variance = sums["target_squared"] / num_samples - (sums["target"] / num_samples) ** 2
        loss = sums["loss"] / num_samples
        return {"loss": loss, "mae": sums["mae"] / num_samples, "r2": 1 - loss / max(variance, 1e-12)}

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Nothing to warn about."""
        return ""

    def names(self, batch: Any, split: str) -> list[str]:
        """The rows of a batch, for error messages."""
        samples = self.manifest.of(split)
        return [samples[position].key for position in batch[0].tolist()]
