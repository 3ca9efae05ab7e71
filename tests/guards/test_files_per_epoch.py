"""The number of files that an epoch opens, and of folders that it lists, does not depend on the number of samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("files_of_an_epoch.py")
BATCH_SIZE = 2
MOST_FILES, MOST_LISTS = 12, 4
"""In the run folder, where a checkpoint is written after each epoch; TensorBoard's file is not counted."""


def test_an_epoch_opens_no_more_files_for_more_samples(tmp_path: Path) -> None:
    settings = [
        f"run.runs_dir={tmp_path / 'runs'}", f"data.cache_dir={tmp_path / 'cache'}", "run.device=cpu",
        "run.plots=false", "run.log_every_steps=1000", "data.num_workers=0",
    ]  # fmt: skip
    images = [*settings, "data.image_size=32"]
    scenes = [*settings, "data.synthetic_points=1000", f"training.batch_size={BATCH_SIZE}"]
    scenes += ["data.max_train_scenes=null", "data.max_val_scenes=null", "data.max_depth=2", "loss.point_samples=64"]
    scenes += [f"model.{name}=16" for name in ("hidden_dim", "output_dim", "propagator_hidden_dim", "projection_dim")]
    few_images, many_images, few_scenes, many_scenes = touched(
        ("smoke_qr", [*images, "data.sample_per_class=20"]),
        ("smoke_qr", [*images, "data.sample_per_class=60"]),
        ("smoke_dbbd", [*scenes, "data.synthetic_scenes=10"]),
        ("smoke_dbbd", [*scenes, "data.synthetic_scenes=20"]),
    )
    for few, many in ((few_images, many_images), (few_scenes, many_scenes)):
        assert many["used"] > 1.5 * few["used"]
        for each in (few, many):
            assert len(each["others"]) <= MOST_FILES, each["others"]
            assert len(each["listed"]) <= MOST_LISTS, each["listed"]
    for each in (few_images, many_images):
        assert each["cached"] == []  # one file, which stays open
    for each in (few_scenes, many_scenes):
        # One file each; the replay check of the checkpoint makes one batch again.
        assert len(set(each["cached"])) == each["used"]
        assert len(each["cached"]) <= each["used"] + BATCH_SIZE


def touched(*runs: tuple[str, list[str]]) -> list[dict[str, Any]]:
    """The files that the second epoch of each run opened and listed, in the cache and elsewhere, and its samples."""
    process = subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(runs)],
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    answers = json.loads(process.stdout)
    for answer in answers:
        names = [name for name in answer["opened"] if "events.out.tfevents" not in name]
        answer["cached"] = [name for name in names if Path(name).parent.name == "cache"]
        answer["others"] = [name for name in names if name not in answer["cached"]]
        answer["used"] = answer["samples"]["train"] + answer["samples"]["val"]
    return answers
