"""The workload of URL classification: encoded URLs, a network and cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.text import counted
from dbbd_cli.data.loader import BatchLoader
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.urls.cleaning import clean_url
from dbbd_cli.data.urls.dataset import UrlBatch, UrlDataset
from dbbd_cli.model.classification import macro_f1
from dbbd_cli.model.urls.classifier import UrlClassifier
from dbbd_cli.model.urls.network import UrlNet
from dbbd_cli.model.weights import load_tensors, mismatches
from dbbd_cli.tasks.url_classification.config import PROGRESS_METRICS, SAMPLE_UNIT, UrlClassificationConfig


class UrlWorkload:
    """The `Workload` of URL classification.

    Args:
        config: the resolved configuration.
        manifest: the samples and their splits.
        splits: splits to make loaders for.
        pretrained: whether to fit the network to the training URLs or load `model.weights`; a checkpoint replaces both.
        pin_memory: whether to put batches into page-locked memory.
    """

    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    out_of_memory_hint = "lower training.batch_size, and raise training.accumulate_batches by as much"

    def __init__(
        self,
        config: UrlClassificationConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
    ) -> None:
        self.config = config
        self.manifest = manifest
        data, model = config.data, config.model
        if data.positive_class is not None and data.positive_class not in manifest.classes:
            raise ConfigError(
                f"data.positive_class: there is no class {data.positive_class!r}",
                hint=f"choose one of: {', '.join(manifest.classes[:8])}",
            )
        network = UrlNet(len(manifest.classes), bits=model.hash_bits, dropout=model.dropout)
        self.module = UrlClassifier(network, label_smoothing=config.training.label_smoothing)
        self.loaders: dict[str, BatchLoader] = {}
        for split in splits:
            dataset = self._dataset(split)
            if split == "train" and pretrained and model.weights == "none":
                network.fit(torch.from_numpy(dataset.codes))
            self.loaders[split] = BatchLoader(
                dataset,
                batch_size=config.training.batch_size,
                shuffle=split == "train",
                seed=config.seed,
                num_workers=data.num_workers,
                worker_timeout=data.worker_timeout,
                batches_in_use=config.training.accumulate_batches if split == "train" else 1,
                pin_memory=pin_memory,
            )
        if pretrained and model.weights != "none":
            _load_weights(network, Path(model.weights))

    def _dataset(self, split: str) -> UrlDataset:
        return UrlDataset(self.urls(split), [sample.label for sample in self.manifest.of(split)])

    @property
    def false_positive_rate(self) -> float:
        """The false-positive rate that the decision threshold is chosen for."""
        return self.config.evaluation.false_positive_rate

    def urls(self, split: str) -> list[str]:
        """Return the URLs of a split, cleaned."""
        return [clean_url(sample.text or sample.key, self.config.data.urls) for sample in self.manifest.of(split)]

    def to_device(self, batch: UrlBatch, device: torch.device, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns encoded URLs `(B, L)` and labels `(B,)` on the device."""
        return batch.codes.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)

    def summarize(self, sums: Mapping[str, float], num_samples: int) -> dict[str, float]:
        """Compute the mean loss and accuracy over samples and, except in training, the mean F1 over classes."""
        metrics = {"loss": sums["loss"] / num_samples, "accuracy": sums["accuracy"] / num_samples}
        if "f1_0" in sums:
            metrics["f1"] = macro_f1([sums[f"f1_{place}"] for place in range(2 * len(self.manifest.classes))])
        return metrics

    def warning(self, metrics: Mapping[str, float]) -> str:
        """Return no warning."""
        return ""

    def names(self, batch: UrlBatch, split: str) -> list[str]:
        """Return the URLs of the batch, or the paths of the pictures they were read from."""
        samples = self.manifest.of(split)
        return [samples[index].key for index in batch.samples.tolist()]

    def pictures(self, split: str, places: Sequence[int]) -> None:
        """Return None: samples are text."""

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
        """The origin of the URLs and the classes, in words."""
        data, classes = self.config.data, self.manifest.classes
        where = {
            "synthetic": "synthetic URLs",
            "urls": f"URLs in {data.path}",
            "folder": f"codes in pictures in {data.path}",
            "classes": "codes in pictures in a folder for each class",
        }[data.source]
        named = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
        return f"{where} ({counted(len(classes), 'class')}: {named})"

    @property
    def positive_class(self) -> str | None:
        """The positive class if there are two classes."""
        classes = self.manifest.classes
        return (self.config.data.positive_class or classes[-1]) if len(classes) == 2 else None


def _load_weights(network: UrlNet, path: Path) -> None:
    """Load the weights of a network from one of our checkpoints, or a state dict of the network.

    Raises:
        CheckpointError: the file cannot be read, or does not match.
    """
    content = load_tensors(path)
    state = content.get("module", content) if isinstance(content, Mapping) else {}
    state = {str(key).removeprefix("network."): value for key, value in state.items()}
    if problems := mismatches(state, network.state_dict()):
        raise CheckpointError(
            f"model.weights: {path} does not match the network",
            hint="use a checkpoint of a run with the same classes and model settings",
            details=problems[:10],
        )
    network.load_state_dict(state)
