"""The network for URLs with its loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dbbd_cli.model.classification import batch_metrics
from dbbd_cli.model.output import StepOutput
from dbbd_cli.model.processes import part_of_mean
from dbbd_cli.model.urls.network import UrlNet


class UrlClassifier(nn.Module):
    """A network for URLs with its loss.

    In training, each view, and each member of an ensemble, has its own cross-entropy, and the loss is their mean: a
    view would otherwise stop learning what another one knows already. In evaluation, the loss is the cross-entropy of
    the averaged logits.

    Args:
        network: the network.
        label_smoothing: share of the target that is distributed over all classes, in training only.
    """

    def __init__(self, network: UrlNet, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing = label_smoothing

    def forward(self, codes: torch.Tensor, labels: torch.Tensor) -> StepOutput:
        """Returns loss, metrics and logits of encoded URLs `(B, L)`, uint8, and labels `(B,)`."""
        views = [view.float() for view in self.network.views(codes)]
        logits = self.network.combine(views)
        if self.training:
            losses = [
                F.cross_entropy(
                    view.flatten(0, -2), labels.expand(view.shape[:-1]).flatten(), label_smoothing=self.label_smoothing
                )
                for view in views
            ]
            loss = torch.stack(losses).mean()
        else:
            loss = F.cross_entropy(logits, labels)
        metrics = batch_metrics(logits, labels, training=self.training)
        return StepOutput(loss=part_of_mean(loss), metrics=metrics, num_samples=len(labels), logits=logits)
