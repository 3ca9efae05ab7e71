"""Train as one of several processes, whose number and rank are in the environment; the first writes what it learned.

Usage: python shared_training.py CONFIGURATION OUT STEPS
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

import torch

from dbbd_cli.core.processes import from_environment
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.inference import run_split
from dbbd_cli.engine.processes import joined
from dbbd_cli.engine.runtime import seed_everything
from dbbd_cli.engine.state import Sums
from dbbd_cli.engine.trainer import Trainer, train_step
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.session import build_workload
from dbbd_cli.tasks.configs import config_from_mapping


def main() -> None:
    configuration, out, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    member = from_environment(os.environ)
    values = json.loads(Path(configuration).read_text(encoding="utf-8"))
    values["training"]["batch_size"] //= member.size
    with joined(member, timeout=60) as processes:
        config, manifest = prepare_run(config_from_mapping(values, origin=configuration), Silent())
        seed_everything(config.seed)
        splits = ("train", "val")
        workload, runtime = build_workload(config, manifest, splits=splits, pretrained=True, progress=Silent())
        trainer = Trainer(workload, config, runtime, processes=processes)
        trainer.module.train()
        losses = []
        while trainer.state.step < steps:
            batches = workload.loaders["train"].batches(trainer.state.epoch)
            while (step := list(islice(batches, config.training.accumulate_batches))) and trainer.state.step < steps:
                before = trainer.processes.added_up(trainer.state.sums).plain()
                train_step(trainer, step)
                after = trainer.processes.added_up(trainer.state.sums).plain()
                samples = after["num_samples"] - before["num_samples"]
                losses.append((after["values"]["loss"] - before["values"].get("loss", 0.0)) / samples)
            trainer.state.epoch, trainer.state.batch, trainer.state.sums = trainer.state.epoch + 1, 0, Sums()
        with Silent().phase("validate", len(workload.loaders["val"])) as bar:
            sums = run_split(workload, workload.loaders["val"], runtime, bar)
        found = {"losses": losses, "val": trainer.metrics_of(sums), "samples": processes.added_up(sums).num_samples}
        if processes.is_first:
            torch.save(trainer.module.state_dict(), out / "weights.pth")
            (out / "found.json").write_text(json.dumps(found), encoding="utf-8")


main()
