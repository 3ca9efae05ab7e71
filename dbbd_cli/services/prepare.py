"""Prepare the samples of a configuration ahead of training. Nothing here imports PyTorch."""

from __future__ import annotations

import os
import time

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.core.limits import usable_processors
from dbbd_cli.core.paths import leave_removed_folder, shown_url
from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.services.preparation import report_cache_folder, with_absolute_paths
from dbbd_cli.services.results import PrepareResult
from dbbd_cli.tasks.base import Preparation
from dbbd_cli.tasks.registry import get_task


def prepare(config: TaskConfig, *, num_workers: int | None = None, progress: Progress | None = None) -> PrepareResult:
    """Prepare what a run with this configuration needs and the cache does not contain.

    Args:
        config: the configuration.
        num_workers: number of processes to start; None: one for each processor that this process may use.
        progress: shows a bar, and a line for each unusable sample; nothing is shown by default.

    Raises:
        DbbdError: see the subclasses in `core.errors`; an unusable sample raises none.
    """
    progress = progress or Silent()
    config = with_absolute_paths(config)
    leave_removed_folder()
    report_cache_folder(config, progress)
    task, start = get_task(config.task), time.monotonic()
    found = task.prepare(config, num_workers or usable_processors(), progress)
    done = found or Preparation(0, 0, [])
    return PrepareResult(
        task=config.task,
        sample_unit=task.sample_unit,
        source=shown_url(config.data.path or config.data.source),
        needed=found is not None,
        prepared=done.prepared,
        cached=done.cached,
        problems=done.problems,
        processes=from_environment(os.environ).size,
        cache_dir=cache_folder(config.data.cache_dir),
        seconds=time.monotonic() - start,
    )
