"""The workload of URL classification: encoded URLs, a network and cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.core.paths import shown_url
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.data.properties import Property
from dbbd_cli.data.urls.dataset import UrlBatch, UrlDataset
from dbbd_cli.data.urls.properties import url_properties
from dbbd_cli.model.urls.classifier import UrlClassifier
from dbbd_cli.model.urls.network import UrlNet
from dbbd_cli.model.weights import load_tensors, mismatches
from dbbd_cli.tasks.classifier_data import cleaned_urls
from dbbd_cli.tasks.classifier_workload import ClassifierWorkload
from dbbd_cli.tasks.url_classification.config import SAMPLE_UNIT, UrlClassificationConfig


class UrlWorkload(ClassifierWorkload):
    """The `Workload` of URL classification.

    Args:
        config: the resolved configuration.
        manifest: the samples and their splits.
        splits: splits to make loaders for.
        pretrained: whether to fit the network to the training URLs or load `model.weights`; a checkpoint replaces both.
        pin_memory: whether to put batches into page-locked memory.
    """

    config: UrlClassificationConfig
    module: UrlClassifier
    sample_unit = SAMPLE_UNIT
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
        super().__init__(config, manifest)
        model = config.model
        network = UrlNet(len(manifest.classes), bits=model.hash_bits, dropout=model.dropout)
        self.module = UrlClassifier(network, label_smoothing=config.training.label_smoothing)
        for split in splits:
            dataset = self._dataset(split)
            if split == "train" and pretrained and model.weights == "none":
                network.fit(torch.from_numpy(dataset.codes))
            self.loaders[split] = self._loader(dataset, split, pin_memory=pin_memory)
        if pretrained and model.weights != "none":
            _load_weights(network, Path(model.weights))

    def _dataset(self, split: str) -> UrlDataset:
        samples = self.manifest.of(split)
        return UrlDataset(cleaned_urls(self.config, samples), [sample.label for sample in samples])

    def to_device(self, batch: UrlBatch, device: torch.device, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns encoded URLs `(B, L)` and labels `(B,)` on the device."""
        return batch.codes.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)

    def properties(self, split: str) -> list[Property]:
        """The trivial properties of the URLs of a split."""
        return url_properties(cleaned_urls(self.config, self.manifest.of(split)))

    def pictures(self, split: str, places: Sequence[int]) -> None:
        """Return None: samples are text."""

    @property
    def origin(self) -> str:
        """The origin of the URLs, in words."""
        data = self.config.data
        return {
            "synthetic": "synthetic URLs",
            "urls": f"URLs in {shown_url(data.path or '')}",
            "folder": f"codes in pictures in {data.path}",
            "table": f"codes in pictures of {data.path}",
            "classes": "codes in pictures in a folder for each class",
        }[data.source]


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
