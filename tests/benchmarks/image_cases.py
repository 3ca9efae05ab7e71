"""Images: the training step of qr_cnn, inference, and the wait for data."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from loop import Loop, share
from machine import gemm, require_bf16
from measure import WARM_UP, Measured, UnsupportedError, alternately, median, seconds_of, spread
from torch import nn
from torch.nn import functional as F

BATCH = 32
STEP_GFLOP = 104.2
"""Of a training step with 32 images of 224 x 224 pixels, without the gradient of the pixels."""
FORWARD_GFLOP = 35.7
"""Of a forward pass with them: 557.2 million multiply-adds per image."""


def step(repeat: int, precision: str) -> Measured:
    """Measure forward, backward, clipping and AdamW in the loop of `dbbd train`."""
    if precision == "bf16":
        require_bf16()
    loop = make_loop(precision, WARM_UP + repeat)
    seconds, rates = alternately([loop.step, gemm(loop.trainer.runtime.dtype)], repeat)
    return _relative(seconds, rates, STEP_GFLOP, precision)


def _relative(seconds: list[float], rates: list[float], gflop: float, precision: str) -> Measured:
    """Times of a batch, relative to the speed of a matrix product, measured alternately."""
    score, noise = share(seconds, rates, gflop)
    return Measured(
        seconds=median(seconds),
        score=score,
        spread=noise,
        reference={f"gemm_{precision}": median(rates)},
        details={"images_per_second": BATCH / median(seconds)},
    )


def plain_step(repeat: int) -> Measured:
    """Measure a straightforward version of the step: fp32, default memory format, ReLU before pooling."""
    plain, ours = _plain_stepper(), {"fp32": make_loop("fp32", WARM_UP + repeat)}
    try:
        require_bf16()
        ours["bf16"] = make_loop("bf16", WARM_UP + repeat)
    except UnsupportedError:
        pass
    steppers = [lambda: seconds_of(plain), gemm(torch.float32), *(loop.step for loop in ours.values())]
    seconds, rates, *others = alternately(steppers, repeat)
    score, noise = share(seconds, rates, STEP_GFLOP)
    return Measured(
        seconds=median(seconds),
        score=score,
        spread=noise,
        reference={"gemm_fp32": median(rates)},
        details={f"plain_over_{name}": median(seconds) / median(own) for name, own in zip(ours, others, strict=True)},
    )


class _PlainCnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(*channels, 3, padding=1) for channels in ((3, 32), (32, 64), (64, 128))
        )
        self.fc1, self.fc2, self.fc3 = nn.Linear(128 * 28 * 28, 512), nn.Linear(512, 128), nn.Linear(128, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        x = F.dropout(F.relu(self.fc1(torch.flatten(x, 1))), 0.5)
        return self.fc3(F.dropout(F.relu(self.fc2(x)), 0.5))


def _plain_stepper():
    network = _PlainCnn()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001, weight_decay=0.01)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(2, (BATCH,))

    def step_once() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step_once


def inference(repeat: int, precision: str) -> Measured:
    """Measure the forward pass of a batch of 32 images, as in `dbbd evaluate`."""
    if precision == "bf16":
        require_bf16()
    loop = make_loop(precision, 1)
    task, runtime = loop.trainer.workload, loop.trainer.runtime
    raw_batch = next(task.loaders["train"].batches(1))
    batch = task.to_device(raw_batch, runtime.device, train=False)
    task.module.eval()

    def forward() -> float:
        with torch.inference_mode(), runtime.autocast():
            return seconds_of(lambda: task.module(*batch))

    seconds, rates = alternately([forward, gemm(runtime.dtype)], repeat)
    return _relative(seconds, rates, FORWARD_GFLOP, precision)


def epoch_wait(repeat: int) -> Measured:
    """Measure the part of a step that is spent waiting for its batch from the cache, without worker processes."""
    count = WARM_UP + max(10, repeat)
    steps = make_loop("auto", count).run(count)[WARM_UP:]
    shares = [100 * step.data / (step.data + step.arithmetic) for step in steps]
    whole = sum(step.data + step.arithmetic for step in steps)
    return Measured(
        seconds=median([step.data for step in steps]),
        score=100 * sum(step.data for step in steps) / whole,
        spread=spread(shares),
        details={"step_seconds": whole / len(steps)},
    )


def epoch_on_gpu(repeat: int) -> Measured:
    """Measure images per second from the cache to the end of the step on a GPU, in batches of 256."""
    if not torch.cuda.is_available():
        raise UnsupportedError("no CUDA device")
    count = 40
    loop = make_loop("auto", count, device="cuda", batch=256)
    loop.run(count)
    seconds = [sum(step.data + step.arithmetic for step in loop.run(count)) for _ in range(repeat)]
    rates = [256 * count / second for second in seconds]
    return Measured(
        seconds=median(seconds) / count,
        score=median(rates),
        spread=spread(rates),
        peak_mb=torch.cuda.max_memory_allocated() / 1024**2,
    )


def make_loop(precision: str, steps: int, *, device: str = "cpu", batch: int = BATCH) -> Loop:
    """A run of qr_cnn on synthetic images, with the given number of full batches in an epoch."""
    settings: dict[str, object] = {
        "run.precision": precision,
        "run.device": device,
        "training.batch_size": batch,
        "data.num_workers": 0,
        # Two classes, 70% of whose images are for training; one more batch, because the last may be smaller.
        "data.sample_per_class": math.ceil((steps + 1) * batch / 0.7 / 2) + 1,
    }
    return Loop("qr_cnn", settings, Path(tempfile.mkdtemp()))
