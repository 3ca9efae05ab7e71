"""What the tasks on 3D scenes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbbd_cli.tasks.base import Preparation, Task
from dbbd_cli.tasks.scene_config import SAMPLE_UNIT

if TYPE_CHECKING:
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.manifest import Manifest
    from dbbd_cli.data.properties import Property, Relation
    from dbbd_cli.data.scenes.properties import SceneFacts
    from dbbd_cli.report.scenes.viewer import PointCloud


class SceneTask(Task):
    """A task on scenes: how they are listed and inspected."""

    sample_unit = SAMPLE_UNIT
    scene_figure: str
    """The figure of one scene, which the report shows in 3D where the browser can."""

    def make_manifest(self, config: Any, progress: Progress) -> Manifest:
        """List the scenes with their splits."""
        from dbbd_cli.data.cache import cache_folder
        from dbbd_cli.data.scenes.cache import SceneSettings
        from dbbd_cli.data.scenes.manifest import make_room_manifest, make_scene_manifest

        data = config.data
        if data.source == "synthetic":
            return make_room_manifest(
                data.synthetic_scenes, num_points=data.synthetic_points, **data.choice, seed=config.seed
            )
        return make_scene_manifest(
            data.folder,
            **data.choice,
            needs_color="color" in data.all_features,
            needs_normals="normals" in data.all_features,
            follow_links=data.follow_links,
            on_error=data.on_error,
            settings=SceneSettings(**data.preparation),
            cache_dir=cache_folder(data.cache_dir),
            seed=config.seed,
            progress=progress,
        )

    def prepare(self, config: Any, num_workers: int, progress: Progress) -> Preparation:
        """Read the scenes, and compute normals, trees and geometry features."""
        from dbbd_cli.tasks.scene_preparation import prepare_scenes_of

        return prepare_scenes_of(config, num_workers, progress)

    def inspect_samples(
        self, config: Any, manifest: Manifest, positions: Sequence[int], progress: Progress, *, in_short: bool
    ) -> tuple[list[Property], list[Relation]]:
        """Number of points, extent, parts of the files; scenes with the same points in another order or unit."""
        from dbbd_cli.data.scenes.properties import scene_properties, scene_relations

        facts = _scene_facts(config, manifest, positions, progress)
        return scene_properties(facts), scene_relations(facts)

    def clouds(self, evaluation: Mapping[str, Any], read: Callable[[str], bytes | None]) -> Mapping[str, PointCloud]:
        """The scene of an evaluation, colored in turn by all that is known of its points."""
        from dbbd_cli.report.scenes.evaluation_scene import SCENE_FILE, read_evaluation_scene
        from dbbd_cli.report.scenes.viewer import scene_cloud

        content, about = read(SCENE_FILE), evaluation.get("scene") or {}
        if content is None:
            return {}
        label = f"Scene {about['name']} in 3D" if about.get("name") else "Scene in 3D"
        return {self.scene_figure: scene_cloud(read_evaluation_scene(content), label, about.get("classes") or [])}


def _scene_facts(config: Any, manifest: Manifest, positions: Sequence[int], progress: Progress) -> list[SceneFacts]:
    from dbbd_cli.data.manifest import SPLITS
    from dbbd_cli.data.scenes.cache import SceneSettings
    from dbbd_cli.data.scenes.properties import scene_facts
    from dbbd_cli.tasks.scene_data import split_refs

    sampling = SceneSettings(**config.data.preparation).sampling
    refs = {
        (split, sample.key): ref
        for split in SPLITS
        for sample, ref in zip(manifest.of(split), split_refs(config, manifest, split), strict=True)
    }
    samples = [manifest.samples[position] for position in positions]
    with progress.phase("Reading scenes", len(samples), unit="scenes") as bar:
        facts = []
        for sample in samples:
            facts.append(scene_facts(refs[sample.split, sample.key], sampling))
            bar.advance()
    return facts
