"""The result of a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class DeferredMetric:
    """A metric that is computed on the CPU when it is read: on a GPU it would force a synchronization.

    Attributes:
        tensor: the input, which stays on the device until then.
        compute: returns the mean over the samples of the batch.
    """

    tensor: torch.Tensor
    compute: Callable[[torch.Tensor], float]


@dataclass
class StepOutput:
    """The result of one batch.

    Attributes:
        loss: mean loss over the samples of the batch, a differentiable scalar.
        metrics: scalars or vectors, each a sum over the samples of the batch, or deferred. Elements of a vector get its
            name and their index, such as `f1_0`.
        num_samples: number of samples in the batch.
        logits: `(B, num_classes)` if the task has them, for the full evaluation.
    """

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor | DeferredMetric] = field(default_factory=dict)
    num_samples: int = 0
    logits: torch.Tensor | None = None
