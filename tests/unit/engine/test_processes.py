"""Several processes that share each batch learn what a single one learns from the same batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.core.processes import Member, from_environment

SCRIPT = Path(__file__).with_name("shared_training.py")
STEPS = 20
IMAGES = {
    "task": "image_classification",
    "data": {"source": "synthetic", "sample_per_class": 35, "image_size": 32},
    "model": {"name": "qr_cnn"},
}
URLS = {
    "task": "url_classification",
    "data": {"source": "synthetic", "sample_per_class": 75},
    "model": {"name": "url_net", "hash_bits": 10},
}
SCENES = {"source": "synthetic", "synthetic_scenes": 13, "synthetic_points": 1000, "max_depth": 3}
SMALL = {"hidden_dim": 8, "output_dim": 8, "encoder_hidden_dims": [8], "propagator_hidden_dim": 8}
LOSING = {"point_dropout": 0.5, "rotation_degrees": 90}


def dbbd(views: dict[str, Any] | None = None, **loss: Any) -> dict[str, Any]:
    return {
        "task": "dbbd",
        "data": {**SCENES, "views": views or {}},
        "model": {**SMALL, "projection_dim": 8},
        "loss": {"point_samples": 60, **loss},
    }


def segmentation(branches: str, **loss: Any) -> dict[str, Any]:
    model = {**SMALL, "branches": branches, "forest_trees": 0, "head_hidden_dim": 8, "head_members": 2, "dropout": 0.2}
    return {"task": "segmentation", "data": SCENES, "model": model, "loss": {"point_samples": 60, **loss}}


def learned(folder: Path, values: dict[str, Any], processes: int, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is logged, and the weights, after some steps in several processes."""
    out = folder / str(processes)
    out.mkdir()
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)} if processes > 1 else {}
        for rank in range(processes)
    ]
    command = [sys.executable, str(SCRIPT), str(folder / "config.json"), str(out), str(steps)]
    started = []
    for rank in ranks:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env={**os.environ, **place, **rank}, stderr=subprocess.PIPE))
    try:
        for process in started:
            error = process.communicate(timeout=120)[1]
            assert process.returncode == 0, error.decode()
    finally:
        for process in started:
            process.kill()
    return json.loads((out / "found.json").read_text()), torch.load(out / "weights.pth", weights_only=True)


@pytest.mark.parametrize(
    ("values", "batch_size", "accumulated", "processes"),
    [
        (IMAGES, 8, 1, 2),
        ({**IMAGES, "model": {"name": "resnet18"}}, 8, 1, 2),
        (URLS, 12, 2, 3),
        (dbbd(), 4, 1, 2),
        (dbbd(symmetric=True, negatives="scene", level_weights=[1.0, 2.0]), 3, 1, 3),
        (dbbd(kind="prototypes", momentum=0.9, num_prototypes=16), 4, 2, 2),
        (dbbd(views={**LOSING, "local_views": 1}, description_weight=1.0), 4, 1, 2),
        (segmentation("l2g"), 4, 1, 2),
        (segmentation("both", lovasz_weight=0.0), 6, 1, 3),
    ],
    ids=[
        "images, uneven ends",
        "batch normalization",
        "URLs, accumulated gradients",
        "DBBD",
        "DBBD, both directions, negatives of a scene",
        "DBBD, prototypes from a teacher",
        "DBBD, local views, description",
        "segmentation",
        "segmentation, both branches",
    ],
)
def test_processes_learn_what_one_learns(
    tmp_path: Path, values: dict[str, Any], batch_size: int, accumulated: int, processes: int
) -> None:
    training = {"batch_size": batch_size, "accumulate_batches": accumulated, "optimizer": "sgd", "learning_rate": 0.02}
    run = {"device": "cpu", "precision": "fp32"}
    config = {**values, "seed": 3, "training": training, "run": run}
    # Batch normalization of few samples amplifies rounding in each step.
    steps = 3 if values["model"].get("name") == "resnet18" else STEPS
    alone, weights = learned(tmp_path, config, 1, steps)
    together, same = learned(tmp_path, config, processes, steps)
    assert len(together["losses"]) == steps
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-5, abs=1e-5)
    assert together["samples"] == alone["samples"]
    assert together["val"] == pytest.approx(alone["val"], rel=1e-4, abs=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=1e-5, atol=1e-5)
    assert alone["losses"][0] != pytest.approx(alone["losses"][-1], abs=1e-3), "it learned nothing"


def test_who_a_process_is() -> None:
    torchrun = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert from_environment({}) == Member()
    assert from_environment(torchrun) == Member(rank=3, size=4, local_rank=1)
    slurm = {"SLURM_PROCID": "5", "SLURM_LOCALID": "2", "SLURM_STEP_NUM_TASKS": "6"}
    assert from_environment(slurm) == Member(rank=5, size=6, local_rank=2)
    assert from_environment({**slurm, **torchrun}).size == 4
    # In a batch script, not started by srun.
    assert from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}) == Member()
    with pytest.raises(ConfigError, match="RANK is 4, and WORLD_SIZE 4"):
        from_environment({"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(ConfigError, match="must be numbers"):
        from_environment({"RANK": "x", "WORLD_SIZE": "4"})
