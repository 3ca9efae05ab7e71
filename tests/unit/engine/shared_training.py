"""Train as one of several processes, whose number and rank are in the environment; the first writes what it learned.

Usage: python shared_training.py CASES OUT, where CASES is a JSON file with a list of `[configuration, steps]`.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.inference import run_split
from dbbd_cli.engine.processes import ALONE, Processes, joined
from dbbd_cli.engine.sharding import whole
from dbbd_cli.engine.state import Sums
from dbbd_cli.engine.trainer import train_step
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.training import build_trainer
from dbbd_cli.tasks.configs import config_from_mapping


def learned(values: dict[str, Any], steps: int, processes: Processes = ALONE) -> dict[str, Any]:
    """What is logged, and the weights, after some steps in these processes."""
    training = {**values["training"], "batch_size": values["training"]["batch_size"] // processes.size}
    config = config_from_mapping({**values, "training": training}, origin="test")
    config, manifest = prepare_run(config, Silent())
    trainer, _ = build_trainer(config, manifest, Silent(), processes)
    workload, runtime = trainer.workload, trainer.runtime
    trainer.module.train()
    losses, metrics = [], []
    while trainer.state.step < steps:
        batches = workload.loaders["train"].batches(trainer.state.epoch)
        while (step := list(islice(batches, config.training.accumulate_batches))) and trainer.state.step < steps:
            before = trainer.processes.added_up(trainer.state.sums).plain()
            train_step(trainer, step)
            after = trainer.processes.added_up(trainer.state.sums).plain()
            samples = after["num_samples"] - before["num_samples"]
            losses.append((after["values"]["loss"] - before["values"].get("loss", 0.0)) / samples)
        metrics.append(trainer.metrics_of(trainer.state.sums))
        trainer.state.epoch, trainer.state.batch, trainer.state.sums = trainer.state.epoch + 1, 0, Sums()
    with Silent().phase("validate", len(workload.loaders["val"])) as bar:
        sums = run_split(workload, workload.loaders["val"], runtime, bar)
    samples = processes.added_up(sums).num_samples
    weights = {name: whole(value).clone() for name, value in trainer.module.state_dict().items()}
    metrics.append(trainer.metrics_of(sums))
    return {"losses": losses, "metrics": metrics, "samples": samples, "weights": weights}


def main() -> None:
    cases, out = sys.argv[1:]
    with joined(from_environment(os.environ), timeout=60) as processes:
        found = [learned(values, steps, processes) for values, steps in json.loads(Path(cases).read_text("utf-8"))]
        if processes.is_first:
            torch.save(found, out)


if __name__ == "__main__":
    main()
