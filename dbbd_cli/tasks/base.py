"""What a task provides to the commands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dbbd_cli.core.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.load import Override
    from dbbd_cli.config.sections import TaskConfig
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.data.properties import Property, Relation
    from dbbd_cli.engine.processes import Processes
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.engine.workload import Workload
    from dbbd_cli.report.evaluation import Evaluation
    from dbbd_cli.report.history_panels import Panel
    from dbbd_cli.report.prediction import Calibration, Result
    from dbbd_cli.report.scenes.viewer import PointCloud
    from dbbd_cli.report.tables import Section
    from dbbd_cli.runs.output_folder import OutputFolder


@dataclass(frozen=True)
class EvaluationOutput:
    """What an evaluation of a network found.

    Attributes:
        report: plain values, for `evaluation.json`.
        files: name to content of further files in the same folder.
        calibration: what was fitted on the validation split, for `calibration.json`: the fields of
            `report.calibration.Calibration` without those of the checkpoint; None if nothing was.
    """

    report: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None


@dataclass(frozen=True)
class Preparation:
    """What was prepared ahead of training.

    Attributes:
        prepared: number of samples that were prepared.
        cached: number of samples that had been prepared before.
        problems: why the others cannot be used, a line each.
    """

    prepared: int
    cached: int
    problems: list[str]


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
    evaluation_splits: tuple[str, ...] = ()
    """Splits that an evaluation needs besides the one that it reports on."""
    shares_evaluation: bool = False
    """Whether several processes can evaluate together: `evaluate` and `evaluate_other` then get `processes`."""
    can_corrupt: bool = False
    """Whether samples are pictures, or can be shown as such, so that `evaluate_corrupted` works."""
    predicts_files: bool = False
    """Whether `predict` writes files, and gives no verdicts that a calibration could change."""

    def with_weights(self, config: Any) -> TaskConfig:
        """Return the configuration of a new run with what `model.weights` determines; unchanged by default.

        Args:
            config: the configuration, with absolute paths; `model_fields_set` of a section tells what the user set.

        Raises:
            CheckpointError: the weights cannot be used.
            ConfigError: a setting contradicts them.
        """
        return config

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

    def with_samples(self, config: Any, manifest: Manifest, progress: Progress) -> TaskConfig:
        """Return the configuration of a new run with what its samples determine; unchanged by default.

        Args:
            config: the configuration, with absolute paths.
            manifest: what `make_manifest` has just returned for it.
            progress: shows bars, and warnings.

        Raises:
            DataError: the samples do not suffice.
        """
        return config

    def prepare(self, config: Any, num_workers: int, progress: Progress) -> Preparation | None:
        """Prepare the samples of a configuration ahead of training; None, the default, if nothing needs it.

        What is already prepared is skipped, and unusable samples do not end it.

        Args:
            config: the configuration, with absolute paths.
            num_workers: number of processes.
            progress: shows a bar.
        """
        return None

    def inspect_samples(
        self, config: Any, manifest: Manifest, positions: Sequence[int], progress: Progress, *, in_short: bool
    ) -> tuple[list[Property], list[Relation]]:
        """Measure trivial properties of samples, and find what makes samples near duplicates; nothing by default.

        `inspect` tries the properties as classifiers, and finds samples with the same content itself. All this happens
        before PyTorch is imported.

        Args:
            config: the configuration, with absolute paths.
            manifest: what `make_manifest` has just returned for it.
            positions: the samples to measure, by their position in the manifest.
            progress: shows a bar.
            in_short: whether a new run only looks at some samples: then relations, and properties that take long to
                measure, are left out.
        """
        return [], []

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

    @abstractmethod
    def evaluate(
        self, workload: Any, split: str, runtime: Runtime, progress: Progress, processes: Processes | None = None
    ) -> EvaluationOutput:
        """Measure a network on a split.

        Args:
            workload: what `build` returned, on the device.
            split: the split.
            runtime: device and precision.
            progress: shows bars.
            processes: if `shares_evaluation`, those that evaluate together. Only the result of the first one counts;
                the others return as soon as their part is done.
        """
        ...

    def config_for_other_data(self, config: Any, path: Path) -> TaskConfig | None:
        """Return a configuration to list all samples of another data set with the same classes.

        Args:
            config: the configuration of the run.
            path: a file or folder.

        Returns:
            None, the default, if the task cannot be evaluated on other data.

        Raises:
            ConfigError: the task has no such source of samples.
        """
        return None

    def evaluate_other(
        self, workload: Any, other: Any, runtime: Runtime, progress: Progress, processes: Processes | None = None
    ) -> EvaluationOutput:
        """Measure a network on another data set; only called if `config_for_other_data` returns a configuration.

        Args:
            workload: what `build` returned for the data of the run, on the device, with `evaluation_splits`.
            other: the same for the other data set, with the same weights; all of its samples are in the test split.
            runtime: device and precision.
            progress: shows bars.
            processes: see `evaluate`.

        Raises:
            ConfigError: by default.
        """
        raise ConfigError(f"--data: {self.name} cannot be evaluated on another data set")

    def evaluate_corrupted(
        self,
        workload: Any,
        split: str,
        *,
        runtime: Runtime,
        calibration: Calibration,
        num_samples: int,
        progress: Progress,
    ) -> dict[str, Any]:
        """Measure a network on corrupted pictures, if `can_corrupt`.

        Args:
            workload: what `build` returned, on the device.
            split: the split.
            runtime: device and precision.
            calibration: temperature and biases that `evaluate` fitted.
            num_samples: maximum number of samples to corrupt, chosen at random.
            progress: shows a bar.

        Returns:
            `corruptions` of `evaluation.json`: plain values.

        Raises:
            ConfigError: by default.
        """
        raise ConfigError(f"--corruptions: a run of {self.name} has no pictures to corrupt")

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

    def clouds(self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]) -> Mapping[str, PointCloud]:
        """Choose figures that the HTML report replaces with points to turn in 3D; none by default.

        Args:
            evaluation: the content of `evaluation.json`.
            read: see `figures`.

        Returns:
            Name of a figure to the points.
        """
        return {}

    def predict(
        self,
        workload: Any,
        inputs: Iterable[Input],
        *,
        runtime: Runtime,
        calibration: Calibration,
        explain: bool,
        out: OutputFolder,
        progress: Progress,
    ) -> Iterator[Result]:
        """Judge inputs, one batch after the other; by default, an error that says that the task cannot.

        An input that is unreadable, or contains nothing to judge, has a result that says why; it is never an exception.

        Args:
            workload: what `build` returned for no splits, on the device.
            inputs: the inputs.
            runtime: device and precision.
            calibration: temperature, biases and threshold.
            explain: whether to say what in an input moved the verdict.
            out: where files go, if `predicts_files`.
            progress: receives messages.

        Returns:
            At least one result for each input, in order: a folder, a table or a picture of codes may have several.

        Raises:
            ConfigError: at the call: the task cannot predict or explain, or the threshold is about another class than
                the configuration.
        """
        raise ConfigError(
            f"predict: the task {self.name} does not support prediction", hint="pass a run of another task"
        )
