"""The results of the commands: plain values that the command line prints as a table or as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbbd_cli.data.overlap import Overlap
    from dbbd_cli.data.shortcuts import Shortcut


@dataclass(frozen=True)
class RunFacts:
    """A run's task, data, model and hardware, for headers and results."""

    task: str
    sample_unit: str
    """The word for samples, such as images."""
    progress_metrics: tuple[str, ...]
    """The metrics that summarize an epoch; the others are details."""
    data: str
    """Where the samples come from, in words."""
    synthetic: bool
    """Whether the samples are synthetic: then no number of the run says anything about real data."""
    device: str
    precision: str
    model: str
    parameters: int
    size_mb: float
    """Parameters and buffers, in units of 1024² bytes."""
    samples: dict[str, int]
    """Samples in each split."""
    batches: dict[str, int]
    """Batches in each split."""
    skipped: int = 0
    """Files that were skipped because they could not be read."""
    limited_from: dict[str, int] = field(default_factory=dict)
    """Number of available samples in each split that a limit of the configuration reduced."""
    notes: dict[str, str] = field(default_factory=dict)
    """Further rows of the header, by name, such as what `small_mode` changed."""

    def samples_in_words(self) -> str:
        """The number of samples of each split, and the number available if a limit applies."""
        total = {split: f" of {count:,}" for split, count in self.limited_from.items()}
        return " / ".join(f"{count:,}{total.get(split, '')} {split}" for split, count in self.samples.items())


@dataclass(frozen=True)
class BestValue:
    """The best value of a metric in a run."""

    epoch: int
    value: float


@dataclass(frozen=True)
class TrainResult:
    """The outcome of `train` and `resume`."""

    run: Path
    facts: RunFacts
    epochs: int
    """Epochs finished since the run began."""
    seconds: float
    """Training time since the run began, without interruptions."""
    metric: str
    """The validation metric that decided which epoch is best (`checkpoint.metric`)."""
    best_epoch: int
    best: dict[str, float]
    """Validation metrics of the best epoch."""
    best_values: dict[str, BestValue]
    """The best value of each summary metric in any epoch, not necessarily the best epoch."""
    best_model: Path | None
    checkpoint: Path
    plots: list[Path] = field(default_factory=list)
    stopped_early: bool = False
    skipped_steps: int = 0
    """Steps that were skipped because their loss or gradient was not finite."""
    finished_before: bool = False
    """Whether the resumed run had already finished, so that there was nothing left to train."""


@dataclass(frozen=True)
class Forecast:
    """The outcome of `train --dry-run`: the estimated cost of the run."""

    facts: RunFacts
    epochs: int
    seconds_per_epoch: float
    seconds_total: float
    peak_memory_mb: float
    checkpoint_mb: float
    disk_needed_mb: float
    disk_free_mb: float
    train_loss: float
    """Loss of the one training batch, before any update."""


@dataclass(frozen=True)
class ValidateResult:
    """The outcome of `validate`."""

    run: Path
    checkpoint: Path
    epoch: int
    num_samples: int
    synthetic: bool
    metrics: dict[str, float]
    logged: dict[str, float] | None
    """What training logged for this epoch; None if it did not."""
    device: str
    precision: str


@dataclass(frozen=True)
class EvaluateResult:
    """The outcome of `evaluate`: the content of `evaluation.json` and where the files are."""

    run: Path
    checkpoint: Path
    report: dict[str, object]
    files: list[Path]


@dataclass(frozen=True)
class PlotResult:
    """The outcome of `plot`."""

    files: list[Path]


@dataclass(frozen=True)
class PrepareResult:
    """The outcome of `prepare`."""

    task: str
    sample_unit: str
    """The word for samples, such as scenes."""
    source: str
    """The path of the data, or the name of its source."""
    needed: bool
    """Whether the task prepares samples at all."""
    prepared: int
    """Samples that were prepared now."""
    cached: int
    """Samples that had been prepared before."""
    problems: list[str]
    """Samples that cannot be used, with the reason."""
    processes: int
    """Number of processes of torchrun or `srun` that share the samples; the counts are those of this one."""
    cache_dir: Path
    """Folder of the prepared samples."""
    seconds: float


@dataclass(frozen=True)
class ExportResult:
    """The outcome of `export`."""

    checkpoint: Path
    task: str
    epoch: int
    """Epochs that the weights were trained for."""
    tensors: int
    size_mb: float
    """Size of the weights in units of 1024² bytes."""
    file: Path


@dataclass(frozen=True)
class InspectResult:
    """The outcome of `inspect`."""

    task: str
    sample_unit: str
    """The word for samples, such as images."""
    source: str
    """The path of the data, or the name of its source."""
    synthetic: bool
    counts: dict[str, dict[str, int]]
    """Samples of each class in each split; empty if the samples have no classes."""
    samples: dict[str, int]
    """Samples in each split."""
    skipped: int
    """Samples that were left out because they cannot be used."""
    properties: dict[str, dict[str, dict[str, object]]]
    """Of each property, in each split: median, min and max, or the most frequent value and its share."""
    overlaps: list[Overlap]
    """Duplicates, near duplicates and other relations."""
    shortcuts: list[Shortcut]
    """Each property as a classifier, the most accurate first; empty if the samples have no classes."""
    chance: float | None
    """Balanced accuracy on the validation split of a classifier that ignores its input."""
    clear_above: float | None
    """A property is clearly above chance if the lower end of its interval is above this."""
    best_possible: float | None
    """Balanced accuracy on the validation split of a perfect classifier; below 1 if classes share contents."""
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class SmokeStep:
    """One step of `smoke`."""

    task: str
    name: str
    seconds: float
    passed: bool
    detail: str


@dataclass(frozen=True)
class SmokeResult:
    """The outcome of `smoke`."""

    run: Path
    """Folder of the small runs."""
    device: str
    precision: str
    steps: list[SmokeStep]
    seconds: float
    synthetic: bool = True
    """The samples are synthetic for every task: no number of these runs says anything about real data."""

    @property
    def passed(self) -> bool:
        """Whether every step passed."""
        return all(step.passed for step in self.steps)
