"""Prepare the scenes of a configuration ahead of training, for the tasks on scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.text import printable
from dbbd_cli.tasks.base import Preparation

if TYPE_CHECKING:
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.scenes.cache import Room


def prepare_scenes_of(config: Any, num_workers: int, progress: Progress) -> Preparation:
    """Prepare the scenes that a run with this configuration uses.

    Args:
        config: the configuration, whose `data` is a `SceneDataConfig`.
        num_workers: number of processes.
        progress: shows a bar, and a line for each unusable scene.

    Raises:
        DataError: the folder cannot be listed.
        ConfigError: `data.path` is not set.
        DiskError: the cache cannot be written.
    """
    from dbbd_cli.data.cache import cache_folder
    from dbbd_cli.data.scenes.cache import SceneSettings
    from dbbd_cli.data.scenes.manifest import chosen_scenes, required_parts, room_sources
    from dbbd_cli.data.scenes.preparation import CACHED, PREPARED, prepare_in_processes

    data = config.data
    sources: list[Path | Room]
    problems: list[str] = []
    if data.source == "synthetic":
        rooms = room_sources(data.synthetic_scenes, num_points=data.synthetic_points, **data.choice, seed=config.seed)
        sources = [*rooms]
    else:
        paths, problems = chosen_scenes(
            data.folder, **data.choice, follow_links=data.follow_links, seed=config.seed, progress=progress
        )
        sources = [*paths]
    for problem in problems:
        progress.warn(problem)
    counts = {PREPARED: 0, CACHED: 0}
    with progress.phase("Preparing scenes", len(sources), unit="scenes") as bar:
        for found in prepare_in_processes(
            sources,
            required_parts("color" in data.all_features, "normals" in data.all_features),
            SceneSettings(**data.preparation),
            cache_folder(data.cache_dir),
            min(num_workers, max(len(sources), 1)),
        ):
            if found in counts:
                counts[found] += 1
            else:
                problems = [*problems, printable(found)]
                progress.warn(printable(found))
            bar.advance()
    return Preparation(counts[PREPARED], counts[CACHED], problems)
