"""What a task provides to the commands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.load import Override
    from dbbd_cli.config.sections import TaskConfig
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.engine.workload import Workload
    from dbbd_cli.report.evaluation import Evaluation
    from dbbd_cli.report.history_panels import Panel
    from dbbd_cli.report.tables import Section


@dataclass(frozen=True)
class EvaluationOutput:
    """What an evaluation of a network found.

    Attributes:
        report: plain values, for `evaluation.json`.
        files: name to content of further files in the same folder.
    """

    report: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)


class Task(Protocol):
    """One kind of training, from its settings to its figures. Subclass it to inherit the defaults.

    Settings and data are checked before PyTorch is imported, which takes seconds. Everything here is therefore light to
    import; only `build`, which returns a `Workload` for the engine, and `evaluate` import PyTorch.
    """

    name: str
    """The value of `task:` in a configuration."""
    config_class: type[TaskConfig]
    """The schema of its configuration."""
    smoke_config: str
    """Name or path of the configuration that `dbbd smoke` uses: small, on synthetic data."""
    sample_unit: str
    """The plural noun for samples, such as images."""
    progress_metrics: tuple[str, ...]
    """The metrics that summarize an epoch, the loss first; the others are only logged."""
    figure_names: tuple[str, ...] = ()
    """The names of all figures that an evaluation may have."""
    can_corrupt: bool = False
    """Whether samples are pictures, or can be shown as such, so that `evaluate_corrupted` works."""

    @abstractmethod
    def make_manifest(self, config: Any, progress: Progress) -> Manifest:
        """List the samples of a new run and divide them into splits.

        Args:
            config: the configuration, with absolute paths.
            progress: shows a bar.

        Raises:
            DataError: the samples cannot be used.
            ConfigError: they are not where the configuration says.
        """
        ...

    @abstractmethod
    def build(
        self,
        config: Any,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> Workload:
        """Build the data loaders and the network.

        Args:
            config: the configuration.
            manifest: the samples and their splits.
            splits: the splits to build loaders for.
            pretrained: whether to load `model.weights`; False if a checkpoint replaces the weights anyway.
            pin_memory: whether to put batches into page-locked memory.
            progress: shows a bar while samples are prepared.

        Raises:
            DataError: samples are missing or have changed.
            CheckpointError: `model.weights` does not match the network.
        """
        ...

    def notes(self, config: Any, manifest: Manifest) -> Mapping[str, str]:
        """Return further rows for the header of a run, by name; none by default."""
        return {}

    def config_for_weights(
        self, content: object, path: Path, settings: Mapping[str, Any] | None, overrides: Sequence[Override]
    ) -> TaskConfig | None:
        """Return a configuration to evaluate weights outside a run folder.

        Args:
            content: the content of the file of weights.
            path: the file.
            settings: settings from the user; None: use those in the file, or the defaults.
            overrides: settings that take precedence.

        Returns:
            The configuration, whose `model.weights` is the file; None, the default, if the weights do not belong to
            this task.

        Raises:
            ConfigError: the settings do not fit the weights.
        """
        return None

    def history_panels(self, metrics: Collection[str], num_runs: int) -> list[Panel]:
        """Choose the panels of a training history beyond the loss and the learning rate.

        Args:
            metrics: the metrics that were recorded.
            num_runs: runs that are overlaid; with several, each has a color, so a panel must have a single curve.

        Returns:
            By default, a panel for each of `progress_metrics`.
        """
        from dbbd_cli.report.history_panels import metric_panel

        return [metric_panel(name) for name in self.progress_metrics if name != "loss"]

    def evaluate(self, workload: Any, split: str, runtime: Runtime, progress: Progress) -> EvaluationOutput:
        """Measure a network on a split.

        Args:
            workload: what `build` returned, on the device.
            split: the split.
            runtime: device and precision.
            progress: shows bars.
        """
        ...

    def evaluate_corrupted(
        self, workload: Any, split: str, runtime: Runtime, num_samples: int, progress: Progress
    ) -> dict[str, Any]:
        """Measure a network on corrupted pictures, if `can_corrupt`.

        Args:
            workload: what `build` returned, on the device.
            split: the split.
            runtime: device and precision.
            num_samples: maximum number of samples to corrupt, chosen at random.
            progress: shows a bar.

        Returns:
            `corruptions` of `evaluation.json`: plain values.
        """
        raise NotImplementedError

    def evaluation_schema(self) -> type[Evaluation]:
        """Return the model that checks `evaluation.json` before it is drawn."""
        from dbbd_cli.report.evaluation import Evaluation

        return Evaluation

    def tables(self, evaluation: Mapping[str, Any]) -> list[Section]:
        """Arrange an evaluation, the content of `evaluation.json`, as tables for the terminal and the HTML report.

        By default, the loss, the other numbers of the evaluation, and the efficiency.
        """
        from dbbd_cli.report.tables import default_tables

        return default_tables(evaluation, self.sample_unit)

    def figures(
        self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]
    ) -> dict[str, Callable[[], Figure]]:
        """Choose the figures of an evaluation; none by default.

        Args:
            evaluation: the content of `evaluation.json`.
            read: returns the content of a file that the evaluation wrote next to it, None if there is none.

        Returns:
            Name, one of `figure_names`, to a function that draws the figure, in the order to show them in.

        Raises:
            CheckpointError: a file next to the evaluation is damaged.
        """
        return {}
