"""Checkpoints: for how long saving keeps training from going on."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loop import Loop
from machine import copy
from measure import Measured, in_turn, median, spread

from dbbd_cli.engine.checkpoint.files import NEWEST, load_checkpoint

LEAST_BYTES = 600_000_000
"""Weights of qr_cnn and the two moments of AdamW: 618 MB."""
TIME_LIMIT_SECONDS = 120
LOOK_EVERY_SECONDS = 0.005


def pause(repeat: int) -> Measured:
    """Seconds for which a save of 618 MB stops training; the first save, which sets up memory, is not counted.

    The loop itself saves after every step, and goes on. Before each save the one before it is waited for, which in
    training is long over; meanwhile a thread looks for the new file.
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
    there: list[Future[float]] = []
    save, newest = training.save, loop.folder / NEWEST

    def timed_save(*arguments: Any, **options: Any) -> None:
        for before in there:
            before.result()
        start = time.perf_counter()
        there.append(pool.submit(_seconds_until_new, newest, _identity(newest), start))
        save(*arguments, **options)
        pauses.append(time.perf_counter() - start)

    training.save = timed_save
    with ThreadPoolExecutor(1) as pool:
        loop.run(1 + saves)  # after the last step the loop is left before it saves
    rate = median(in_turn([copy()], 3)[0])
    size = newest.stat().st_size
    assert len(pauses) == saves
    assert size > LEAST_BYTES
    assert load_checkpoint(newest)["state"]["step"] == saves
    return Measured(
        seconds=median(pauses[1:]),
        score=median(pauses[1:]),
        spread=spread(pauses[1:]),
        reference={"copy_seconds": 2e-9 * size / rate},
        details={
            "seconds_until_there": median([future.result() for future in there[1:]]),
            "megabytes": size / 1e6,
        },
    )


def _identity(path: Path) -> int:
    """What changes when another file takes the name; 0 where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _seconds_until_new(path: Path, old: int, start: float) -> float:
    while (now := time.perf_counter()) - start < TIME_LIMIT_SECONDS:
        if _identity(path) != old:
            return now - start
        time.sleep(LOOK_EVERY_SECONDS)
    raise TimeoutError(f"no new {path.name} within {TIME_LIMIT_SECONDS} s")
