"""Prepare the scenes of a configuration ahead of training, for the tasks on scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import ConfigError
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
        ConfigError: there is no folder.
        DiskError: the cache cannot be written.
    """
    from dbbd_cli.data.cache import cache_folder
    from dbbd_cli.data.scenes.cache import SceneSettings
    from dbbd_cli.data.scenes.manifest import chosen_scenes, required_parts, room_sources
    from dbbd_cli.data.scenes.preparation import CACHED, PREPARED, prepare_in_processes

    data = config.data
    sources: list[Path | Room]
    problems: list[str] = []
    shares = (data.split.train, data.split.val, data.split.test)
    max_scenes = {"train": data.max_train_scenes, "val": data.max_val_scenes, "test": data.max_test_scenes}
    if data.source == "synthetic":
        sources = [
            *room_sources(
                data.synthetic_scenes,
                num_points=data.synthetic_points,
                shares=shares,
                max_scenes=max_scenes,
                seed=config.seed,
            )
        ]
    elif data.path is None:
        raise ConfigError(
            "data.path is not set, but data.source is folder",
            hint="set it with --set data.path=DIR, or try --set data.source=synthetic",
        )
    else:
        paths, problems = chosen_scenes(
            Path(data.path),
            shares=shares,
            max_scenes=max_scenes,
            follow_links=data.follow_links,
            seed=config.seed,
            progress=progress,
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
