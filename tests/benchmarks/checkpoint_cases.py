"""Checkpoints: how long training pauses for a save."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loop import Loop
from machine import copy
from measure import Measured, alternately, median, spread

from dbbd_cli.engine.checkpoint.files import NEWEST, load_checkpoint

MIN_BYTES = 600_000_000
"""Weights of qr_cnn and the two moments of AdamW: 618 MB."""
TIME_LIMIT_SECONDS = 120
POLL_SECONDS = 0.005


def pause(repeat: int) -> Measured:
    """Measure how many seconds training pauses for a save of 618 MB, without the first save, which allocates memory.

    The training loop itself saves after every step. Each save waits for the previous one, which in real training would
    have finished long before; a thread watches for the new file.
    """
    settings: dict[str, object] = {
        "run.device": "cpu",
        "data.sample_per_class": 300,
        "data.num_workers": 0,
        "checkpoint.every_steps": 1,
    }
    loop = Loop("qr_cnn", settings, Path(tempfile.mkdtemp()))
    training: Any = loop.training
    saves = 1 + min(max(repeat, 3), 8)
    pauses: list[float] = []
    written: list[Future[float]] = []
    save, newest = training.save, loop.folder / NEWEST

    def timed_save(*arguments: Any, **options: Any) -> None:
        for before in written:
            before.result()
        start = time.perf_counter()
        written.append(pool.submit(_seconds_until_new, newest, _identity(newest), start))
        save(*arguments, **options)
        pauses.append(time.perf_counter() - start)

    training.save = timed_save
    with ThreadPoolExecutor(1) as pool:
        loop.run(1 + saves)  # the loop is left after the last step, before its save
    rate = median(alternately([copy()], 3)[0])
    size = newest.stat().st_size
    assert len(pauses) == saves
    assert size > MIN_BYTES
    assert load_checkpoint(newest)["state"]["step"] == saves
    return Measured(
        seconds=median(pauses[1:]),
        score=median(pauses[1:]),
        spread=spread(pauses[1:]),
        reference={"copy_seconds": 2e-9 * size / rate},
        details={
            "seconds_until_written": median([future.result() for future in written[1:]]),
            "megabytes": size / 1e6,
        },
    )


def _identity(path: Path) -> int:
    """A number that changes when the file is replaced; 0 if there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _seconds_until_new(path: Path, old: int, start: float) -> float:
    while (now := time.perf_counter()) - start < TIME_LIMIT_SECONDS:
        if _identity(path) != old:
            return now - start
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"no new {path.name} within {TIME_LIMIT_SECONDS} s")
