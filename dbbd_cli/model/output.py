"""What a forward pass returns to the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class DeferredMetric:
    """A metric that is computed on the CPU, and only once it is read, for it would make the program wait for a GPU.

    Attributes:
        tensor: what it is computed from; it stays on the device until then.
        compute: gives the mean over the samples of the batch.
    """

    tensor: torch.Tensor
    compute: Callable[[torch.Tensor], float]


@dataclass
class StepOutput:
    """The result of one batch.

    Attributes:
        loss: mean loss over the samples of the batch, a scalar that can be differentiated.
        metrics: scalars or vectors, each a sum over the samples of the batch, or what a mean is computed from later.
            An element of a vector is summed under the vector's name and its index, such as `f1_0`.
        num_samples: samples in the batch.
        logits: `(B, num_classes)` where the task has them, for a full evaluation.
    """

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor | DeferredMetric] = field(default_factory=dict)
    num_samples: int = 0
    logits: torch.Tensor | None = None
