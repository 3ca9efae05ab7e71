"""What a forward pass returns to the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class StepOutput:
    """The result of one batch.

    Attributes:
        loss: mean loss over the samples of the batch, a scalar that can be differentiated.
        metrics: scalars, each a sum over the samples of the batch.
        num_samples: samples in the batch.
        logits: `(B, num_classes)` where the task has them, for a full evaluation.
    """

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)
    num_samples: int = 0
    logits: torch.Tensor | None = None
