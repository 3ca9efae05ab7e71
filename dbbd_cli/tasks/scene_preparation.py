"""Prepare the scenes of a configuration ahead of training, for the tasks on scenes."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbd_cli.core.errors import StoppedError
from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.signals import signal_of
from dbbd_cli.core.text import counted, printable
from dbbd_cli.tasks.base import Preparation

if TYPE_CHECKING:
    from dbbd_cli.core.progress import Progress
    from dbbd_cli.data.scenes.cache import Room


def prepare_scenes_of(config: Any, num_workers: int, progress: Progress) -> Preparation:
    """Prepare the scenes that a run with this configuration uses; of n processes of torchrun or `srun`, every n-th one.

    Args:
        config: the configuration, whose `data` is a `SceneDataConfig`.
        num_workers: number of processes to start.
        progress: shows a bar, and a line for each unusable scene.

    Raises:
        DataError: the folder cannot be listed.
        ConfigError: `data.path` is not set.
        DiskError: the cache cannot be written.
        StoppedError: a signal arrived; the scenes that were ready by then are in the cache.
    """
    from dbbd_cli.data.cache import cache_folder
    from dbbd_cli.data.scenes.cache import SceneSettings
    from dbbd_cli.data.scenes.manifest import required_parts
    from dbbd_cli.data.scenes.preparation import CACHED, PREPARED, prepare_in_processes

    data, member = config.data, from_environment(os.environ)
    sources, problems = _sources(config, progress)
    # The scenes of all processes together; each reports its own, and the first one what is wrong with the folder.
    sources = sources[member.rank :: member.size]
    problems = problems if member.is_first else []
    for problem in problems:
        progress.warn(problem)
    counts = {PREPARED: 0, CACHED: 0}
    outcomes = prepare_in_processes(
        sources,
        required_parts("color" in data.all_features, "normals" in data.all_features),
        SceneSettings(**data.preparation),
        cache_folder(data.cache_dir),
        min(num_workers, max(len(sources), 1)),
    )
    try:
        with progress.phase("Preparing scenes", len(sources), unit="scenes") as bar, closing(outcomes):
            for found in outcomes:
                if found in counts:
                    counts[found] += 1
                else:
                    problems = [*problems, printable(found)]
                    progress.warn(printable(found))
                bar.advance()
    except KeyboardInterrupt as error:
        raise StoppedError(
            f"Stopped: {sum(counts.values()):,} of {counted(len(sources), 'scene')} are prepared.",
            signal_number=signal_of(error),
            hint="run the same command again to prepare the others",
        ) from error
    return Preparation(counts[PREPARED], counts[CACHED], problems)


def _sources(config: Any, progress: Progress) -> tuple[list[Path | Room], list[str]]:
    """The scenes, and entries of the folder that should be scenes but are not, with the reason."""
    from dbbd_cli.data.scenes.manifest import chosen_scenes, room_sources

    data = config.data
    if data.source == "synthetic":
        rooms = room_sources(data.synthetic_scenes, num_points=data.synthetic_points, **data.choice, seed=config.seed)
        return [*rooms], []
    paths, problems = chosen_scenes(
        data.folder, **data.choice, follow_links=data.follow_links, seed=config.seed, progress=progress
    )
    return [*paths], problems
