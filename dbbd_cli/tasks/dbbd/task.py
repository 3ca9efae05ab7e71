"""The task `dbbd`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.base import EvaluationOutput, Preparation, Task
from dbbd_cli.tasks.dbbd.config import PROGRESS_METRICS, SAMPLE_UNIT, DbbdConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dbbd_cli.config.load import Override
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.data.properties import Property, Relation
    from dbbd_cli.data.scenes.properties import SceneFacts
    from dbbd_cli.engine.runtime import Runtime
    from dbbd_cli.report.history_panels import Panel
    from dbbd_cli.report.tables import Section
    from dbbd_cli.tasks.dbbd.evaluation_schema import DbbdEvaluation
    from dbbd_cli.tasks.dbbd.workload import DbbdWorkload


class Dbbd(Task):
    """Dual Branch Bi-Directional self-supervised pretraining of point clouds."""

    name = "dbbd"
    config_class = DbbdConfig
    smoke_config = "smoke_dbbd"
    sample_unit = SAMPLE_UNIT
    progress_metrics = PROGRESS_METRICS
    figure_names = ("level_losses", "probe", "scene_features", "region_tree")

    def make_manifest(self, config: DbbdConfig, progress: Progress) -> Manifest:
        """List the scenes with their splits."""
        from dbbd_cli.data.cache import cache_folder
        from dbbd_cli.data.scenes.cache import SceneSettings
        from dbbd_cli.data.scenes.manifest import make_room_manifest, make_scene_manifest

        data = config.data
        shares = (data.split.train, data.split.val, data.split.test)
        max_scenes = {"train": data.max_train_scenes, "val": data.max_val_scenes, "test": data.max_test_scenes}
        if data.source == "synthetic":
            return make_room_manifest(
                data.synthetic_scenes,
                num_points=data.synthetic_points,
                shares=shares,
                max_scenes=max_scenes,
                seed=config.seed,
            )
        if data.path is None:
            raise ConfigError(
                "data.path is not set, but data.source is folder",
                hint="set it with --set data.path=DIR, or try --set data.source=synthetic",
            )
        return make_scene_manifest(
            Path(data.path),
            shares=shares,
            max_scenes=max_scenes,
            needs_color="color" in data.features,
            needs_normals="normals" in data.features,
            follow_links=data.follow_links,
            on_error=data.on_error,
            settings=SceneSettings(**data.preparation),
            cache_dir=cache_folder(data.cache_dir),
            seed=config.seed,
            progress=progress,
        )

    def prepare(self, config: DbbdConfig, num_workers: int, progress: Progress) -> Preparation:
        """Read the scenes, and compute normals, trees and geometry features."""
        from dbbd_cli.tasks.scene_preparation import prepare_scenes_of

        return prepare_scenes_of(config, num_workers, progress)

    def inspect_samples(
        self, config: DbbdConfig, manifest: Manifest, positions: Sequence[int], progress: Progress, *, in_short: bool
    ) -> tuple[list[Property], list[Relation]]:
        """Number of points, extent, parts of the files; scenes with the same points in another order or unit."""
        from dbbd_cli.data.scenes.properties import scene_properties, scene_relations

        facts = _scene_facts(config, manifest, positions, progress)
        return scene_properties(facts), scene_relations(facts)

    def build(
        self,
        config: DbbdConfig,
        manifest: Manifest,
        *,
        splits: Iterable[str],
        pretrained: bool,
        pin_memory: bool,
        progress: Progress,
    ) -> DbbdWorkload:
        """Build the scenes, the loaders and the network."""
        from dbbd_cli.tasks.dbbd.workload import DbbdWorkload

        return DbbdWorkload(
            config, manifest, splits=splits, pretrained=pretrained, pin_memory=pin_memory, progress=progress
        )

    def notes(self, config: DbbdConfig, manifest: Manifest) -> Mapping[str, str]:
        """The effects of `small_mode`, in words."""
        keys = config.set_by_small_mode
        parts = {
            "fewer scenes": any(f"data.max_{split}_scenes" in keys for split in manifest.limited_from),
            f"batches of {config.training.batch_size}": "training.batch_size" in keys,
            f"a network of {config.model.hidden_dim} channels": any(key.startswith("model.") for key in keys),
            f"{config.loss.point_samples:,} points compared per batch": "loss.point_samples" in keys,
            "no worker processes": "data.num_workers" in keys,
        }
        words = ", ".join(words for words, holds in parts.items() if holds)
        return {"Small mode": words} if words else {}

    def config_for_weights(
        self, content: object, path: Path, settings: Mapping[str, Any] | None, overrides: Sequence[Override]
    ) -> DbbdConfig | None:
        """The configuration for weights of DBBD, such as a checkpoint of the first implementation."""
        from dbbd_cli.tasks.dbbd.bare_weights import config_for_weights

        return config_for_weights(content, path, settings, overrides)

    def history_panels(self, metrics: Collection[str], num_runs: int) -> list[Panel]:
        """Parts of the loss, top-1 accuracy by level, and signs of collapse."""
        from dbbd_cli.tasks.dbbd.history_panels import history_panels

        return history_panels(metrics, num_runs)

    def evaluate(self, workload: DbbdWorkload, split: str, runtime: Runtime, progress: Progress) -> EvaluationOutput:
        """Losses with chance levels, retrieval, linear probes, and `evaluation_scene.npz` to draw one scene."""
        from dbbd_cli.tasks.dbbd.evaluate import evaluate

        return evaluate(workload, split, runtime, progress)

    def evaluation_schema(self) -> type[DbbdEvaluation]:
        """Losses compared with chance, and the linear probe."""
        from dbbd_cli.tasks.dbbd.evaluation_schema import DbbdEvaluation

        return DbbdEvaluation

    def tables(self, evaluation: Mapping[str, Any]) -> list[Section]:
        """Metrics, losses compared with chance, the linear probe, and efficiency."""
        from dbbd_cli.tasks.dbbd.tables import dbbd_tables

        return dbbd_tables(evaluation, self.sample_unit)

    def figures(
        self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]
    ) -> dict[str, Callable[[], Figure]]:
        """Losses compared with chance, the linear probe, and one scene."""
        from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE, read_evaluation_scene
        from dbbd_cli.tasks.dbbd.figures import dbbd_figures

        content = read(SCENE_FILE)
        scene = None if content is None else read_evaluation_scene(content)
        return dbbd_figures(evaluation, scene)


def _scene_facts(
    config: DbbdConfig, manifest: Manifest, positions: Sequence[int], progress: Progress
) -> list[SceneFacts]:
    from dbbd_cli.data.manifest import SPLITS
    from dbbd_cli.data.scenes.cache import SceneSettings
    from dbbd_cli.data.scenes.manifest import scene_refs
    from dbbd_cli.data.scenes.properties import scene_facts

    root = Path(manifest.roots[0]) if manifest.roots else None
    num_points = config.data.synthetic_points
    sampling = SceneSettings(**config.data.preparation).sampling
    refs = {
        (split, sample.key): ref
        for split in SPLITS
        for sample, ref in zip(
            manifest.of(split),
            scene_refs(manifest, split, root=root, num_points=num_points, seed=config.seed),
            strict=True,
        )
    }
    samples = [manifest.samples[position] for position in positions]
    with progress.phase("Reading scenes", len(samples), unit="scenes") as bar:
        facts = []
        for sample in samples:
            facts.append(scene_facts(refs[sample.split, sample.key], sampling))
            bar.advance()
    return facts
