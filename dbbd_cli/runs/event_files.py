"""The TensorBoard event files of a run, with each step once, however often the run was killed and resumed."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_NAME = re.compile(r"(events\.out\.tfevents)\.(\d{1,12})\.(.*)", re.DOTALL)


def open_event_file(folder: Path, first_step: int) -> SummaryWriter:
    """Open a new event file in a run folder.

    Its first entry makes readers drop the entries of earlier files from `first_step` on: a killed run logged them after
    the checkpoint that it is resumed from.
    """
    from torch.utils.tensorboard import SummaryWriter

    _rename_later_files(folder)
    return SummaryWriter(str(folder), purge_step=first_step)


def _rename_later_files(folder: Path) -> None:
    """Rename files so that a new one sorts last: readers sort by name, which contains the time in seconds.

    The run may have been resumed within the same second, or the clock may have been set back.
    """
    paths = sorted(path for path in folder.glob("events.out.tfevents.*") if path.is_file())
    times = [int(found[2]) for path in paths if (found := _NAME.fullmatch(path.name))]
    if not times or max(times) < int(time.time()):
        return
    for number, path in enumerate(paths, 1):
        if found := _NAME.fullmatch(path.name):
            with suppress(OSError):
                path.rename(folder / f"{found[1]}.{number:010d}.{found[3]}")
