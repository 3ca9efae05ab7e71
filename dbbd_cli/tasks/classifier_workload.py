"""What the workloads of the tasks that train classifiers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.text import counted
from dbbd_cli.data.loader import BatchDataset, BatchLoader
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.properties import Property
from dbbd_cli.model.classification import macro_f1
from dbbd_cli.tasks.classifier_config import PROGRESS_METRICS, ClassifierConfig
from dbbd_cli.tasks.classifier_data import cleaned_urls, named


class ClassifierWorkload(ABC):
    """The `Workload` of a classifier, whose module has a `network` that maps inputs to logits `(B, K)`.

    Args:
        config: the resolved configuration.
        manifest: the samples and their splits.

    Raises:
        ConfigError: the positive class is not one of the manifest's.
    """

    sample_unit: str
    progress_metrics = PROGRESS_METRICS
    shares_batches = True
    out_of_memory_hint: str
    module: nn.Module

    def __init__(self, config: ClassifierConfig, manifest: Manifest) -> None:
        self.config = config
        self.manifest = manifest
        self.loaders: dict[str, BatchLoader] = {}
        positive = config.data.positive_class
        if positive is not None and positive not in manifest.classes:
            raise ConfigError(
                f"data.positive_class: there is no class {positive!r}",
                hint=f"choose one of: {named(manifest.classes)}",
            )

    @property
    def lr_factors(self) -> Mapping[str, float]:
        """No factors: all parameters train at the same learning rate."""
        return {}

    def _loader(self, dataset: BatchDataset, split: str, *, pin_memory: bool) -> BatchLoader:
        training, data = self.config.training, self.config.data
        return BatchLoader(
            dataset,
            batch_size=training.batch_size,
            shuffle=split == "train",
            seed=self.config.seed,
            num_workers=data.num_workers,
            worker_timeout=data.worker_timeout,
            batches_in_use=training.accumulate_batches if split == "train" else 1,
            pin_memory=pin_memory,
        )

    @abstractmethod
    def to_device(self, batch: Any, device: torch.device, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns inputs of the network and labels `(B,)` on the device."""

    @abstractmethod
    def pictures(self, split: str, places: Sequence[int]) -> np.ndarray | None:
        """Some samples of a split, by place in the manifest's order, `(P, S, S, C)`; None if they are not pictures."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where the samples come from, in words."""

    @abstractmethod
    def properties(self, split: str) -> list[Property]:
        """The trivial properties of the samples of a split, in the manifest's order, as far as they are known."""

    def urls(self, split: str) -> list[str] | None:
        """The URLs of a split as the network gets them, in the manifest's order; None if samples are not URLs."""
        return cleaned_urls(self.config, self.manifest.of(split))

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Compute the mean loss and accuracy over samples and, except in training, the mean F1 over classes."""
        metrics = {"loss": sums["loss"] / num_samples, "accuracy": sums["accuracy"] / num_samples}
        if "f1_0" in sums:
            metrics["f1"] = macro_f1([sums[f"f1_{place}"] for place in range(2 * len(self.manifest.classes))])
        return metrics

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return no warning."""
        return ""

    def names(self, batch: Any, split: str) -> list[str]:
        """Return the paths or URLs of the batch's samples."""
        keys = self.manifest.of(split).keys
        return [keys[index] for index in batch.samples.tolist()]

    @property
    def false_positive_rate(self) -> float:
        """The false-positive rate that the decision threshold is chosen for."""
        return self.config.evaluation.false_positive_rate

    @property
    def monitor(self) -> str:
        """The metric that decides which epoch is best."""
        return self.config.checkpoint.metric

    @property
    def model_name(self) -> str:
        """The architecture."""
        return self.config.model.name

    @property
    def data_description(self) -> str:
        """The origin of the samples and the classes, in words."""
        classes = self.manifest.classes
        return f"{self.origin} ({counted(len(classes), 'class')}: {named(classes)})"

    @property
    def positive_class(self) -> str | None:
        """The positive class if there are two classes."""
        classes = self.manifest.classes
        return (self.config.data.positive_class or classes[-1]) if len(classes) == 2 else None
