"""Trains several small runs of three epochs, and prints which files and folders the second epoch of each touched.

A separate process, because an audit hook cannot be removed. The argument is JSON: for each run the name of a shipped
configuration and a list of settings as `KEY=VALUE`. The answer is JSON too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.services.train import train
from dbbd_cli.tasks.configs import load_config


class Epochs(Silent):
    """Knows from the bars which epoch is under way."""

    epoch = 0

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        words = title.split()
        if words[0] == "Epoch" and words[2] == "train":
            self.epoch = int(words[1].partition("/")[0])
        with super().phase(title, total, unit, done, sample_unit) as phase:
            yield phase


def main() -> None:
    progress = Epochs()
    opened: list[str] = []
    listed: list[str] = []

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if progress.epoch == 2:
            if event == "open" and isinstance(arguments[0], (str, bytes)):
                opened.append(os.fsdecode(arguments[0]))
            elif event in ("os.listdir", "os.scandir"):
                listed.append(str(arguments[0]))

    sys.addaudithook(hear)
    answers = []
    for name, settings in json.loads(sys.argv[1]):
        progress.epoch = 0
        config = load_config(name, [parse_override(text) for text in [*settings, "training.epochs=3"]])
        result = train(config, progress=progress)
        answers.append({"opened": opened[:], "listed": listed[:], "samples": result.facts.samples})
        opened.clear()
        listed.clear()
    print(json.dumps(answers))  # noqa: T201


if __name__ == "__main__":
    main()
