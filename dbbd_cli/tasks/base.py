"""What a task gives the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.load import Override
    from dbbd_cli.config.sections import TaskConfig
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.engine.workload import Workload


class Task(Protocol):
    """One kind of training, from its settings to its figures.

    Settings and data are checked before PyTorch is imported, which takes seconds. Therefore everything here is light to
    import; `build` imports PyTorch and gives the engine a `Workload`.
    """

    name: str
    """What `task:` in a configuration says."""
    config_class: type[TaskConfig]
    """The schema of its configuration."""
    smoke_config: str
    """Name or path of the configuration that `dbbd smoke` uses: small, on synthetic data."""

    def make_manifest(self, config: Any, progress: Progress) -> Manifest:
        """List the samples of a new run and divide them into splits.

        Args:
            config: the configuration, with absolute paths.
            progress: told of every sample that is read.

        Raises:
            DataError: the samples cannot be used.
            ConfigError: they are not where the configuration says.
        """
        ...

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
        """Join data and network.

        Args:
            config: the configuration.
            manifest: the samples and their splits.
            splits: splits to make loaders for.
            pretrained: whether to load `model.weights`; a checkpoint replaces the weights anyway.
            pin_memory: whether to put batches into page-locked memory.
            progress: told of samples that are prepared.

        Raises:
            DataError: samples are missing or have changed.
            CheckpointError: `model.weights` does not fit.
        """
        ...

    def notes(self, config: Any, manifest: Manifest) -> Mapping[str, str]:
        """What else the header of a run should say, by name."""
        ...

    def config_for_weights(
        self, content: object, path: Path, settings: Mapping[str, Any] | None, overrides: Sequence[Override]
    ) -> TaskConfig | None:
        """The configuration with which weights that belong to no run can be evaluated.

        Args:
            content: what the file of weights holds.
            path: the file.
            settings: those that the user named; None: take those of the file, or the defaults.
            overrides: settings that replace those.

        Returns:
            The configuration, whose `model.weights` is the file; None if the weights are not of this task.

        Raises:
            ConfigError: the settings do not fit the weights.
        """
        ...

    def figures(
        self,
        evaluation: Mapping[str, Any],
        read: Callable[[str], bytes | None],
        failed: Callable[[str, Exception], None] | None = None,
    ) -> dict[str, Figure]:
        """Draw an evaluation.

        Args:
            evaluation: the content of `evaluation.json`.
            read: gives the content of a file that the evaluation wrote beside it; None where there is none.
            failed: told of a figure that cannot be drawn; without it, the error is raised.

        Returns:
            Name to figure, in the order in which they should be shown.

        Raises:
            CheckpointError: a file beside the evaluation is damaged.
        """
        ...
