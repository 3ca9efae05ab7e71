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
from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
from dbbd_cli.data.scenes.writing import write_ply
from dbbd_cli.engine.processes import Processes
from unit.engine.shared_training import learned

TRAINING, EXCHANGES = (Path(__file__).with_name(name) for name in ("shared_training.py", "exchanges.py"))
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


CASES = {
    "images, uneven ends": (IMAGES, 8, 1, 2),
    "batch normalization": ({**IMAGES, "model": {"name": "resnet18"}}, 8, 1, 2),
    "divided network, accumulated gradients": (
        {**IMAGES, "model": {"name": "resnet18"}, "run": {"shard_model": True}},
        8,
        2,
        2,
    ),
    "stochastic depth": ({**IMAGES, "model": {"name": "efficientnet_b0"}}, 8, 1, 2),
    "URLs, accumulated gradients": (URLS, 9, 2, 3),
    "DBBD": (dbbd(), 4, 1, 2),
    "DBBD, both directions, negatives of a scene": (
        dbbd(symmetric=True, negatives="scene", level_weights=[1.0, 2.0]),
        3,
        1,
        3,
    ),
    "DBBD, prototypes from a teacher": (dbbd(kind="prototypes", momentum=0.9, num_prototypes=16), 4, 2, 2),
    "DBBD, local views, description": (dbbd(views={**LOSING, "local_views": 1}, description_weight=1.0), 4, 1, 2),
    "DBBD, negatives of a process": (dbbd(negatives="local"), 4, 1, 2),
    "DBBD, trees of different depths": (dbbd(negatives="scene", description_weight=0.5), 4, 1, 2),
    "segmentation": (segmentation("l2g"), 4, 1, 2),
    "segmentation, both branches": (segmentation("both", lovasz_weight=0.0), 6, 1, 3),
    "images, four processes": (IMAGES, 8, 1, 4),
    "DBBD, four processes": (dbbd(symmetric=True), 4, 2, 4),
}
"""Settings, batch size of all processes together, accumulated batches, and processes."""
FULL = os.environ.get("DBBD_RELIABILITY") == "full"
STEPS = {"batch normalization": 3, "divided network, accumulated gradients": 3, "stochastic depth": 2}
"""Fewer than of others, because batch normalization of few samples amplifies rounding in each step."""


DEPTHS = "DBBD, trees of different depths"
LOCAL = "DBBD, negatives of a process"
"""One process learns this from two batches of half the size in each step, with as many points of each scene."""


def write_scenes_of_different_depths(folder: Path) -> None:
    """Write scenes of which some are too small to be divided as often as others."""
    for split, count in (("train", 7), ("val", 3)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            room = generate_room(number, count, 1000)
            few = slice(None, None, (1, 60, 8)[number % 3])
            write_ply(folder / split / f"{number}.ply", dict(zip("xyz", room.coord[few].T, strict=True)))


def case(name: str) -> tuple[dict[str, Any], int]:
    """The configuration, and the number of steps."""
    values, batch_size, accumulated, _ = CASES[name]
    training = {"batch_size": batch_size, "accumulate_batches": accumulated, "optimizer": "sgd", "learning_rate": 0.02}
    config = {**values, "seed": 3, "training": training}
    config["run"] = {**values.get("run", {}), "device": "cpu", "precision": "fp32"}
    return config, STEPS.get(name, 50 if FULL else 12)


def run_in(processes: int, script: Path, *arguments: str) -> None:
    """Run a script in several processes, which must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = []
    for rank in range(processes):
        member = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        env = {**os.environ, "OMP_NUM_THREADS": "1", **place, **member}
        started.append(subprocess.Popen([sys.executable, str(script), *arguments], env=env, stderr=subprocess.PIPE))
    try:
        for process in started:
            error = process.communicate(timeout=900)[1]
            assert process.returncode == 0, error.decode()
    finally:
        for process in started:
            process.kill()


def learned_alone(name: str) -> dict[str, Any]:
    """What a single process learns."""
    config, num_steps = case(name)
    if name == LOCAL:
        training = {**config["training"], "batch_size": 2, "accumulate_batches": 2}
        config |= {"training": training, "loss": {**config["loss"], "point_samples": 30}}
    return learned(config, num_steps)


def learned_together(names: list[str], processes: int, folder: Path) -> dict[str, Any]:
    """What several processes have learned, by case."""
    (folder / "cases.json").write_text(json.dumps([case(name) for name in names]), encoding="utf-8")
    run_in(processes, TRAINING, str(folder / "cases.json"), str(folder / "found.pth"))
    return dict(zip(names, torch.load(folder / "found.pth", weights_only=True), strict=True))


@pytest.mark.parametrize("processes", [2, 3, pytest.param(4, marks=pytest.mark.skipif(not FULL, reason="slow"))])
def test_processes_learn_what_one_learns(processes: int, tmp_path: Path) -> None:
    names = [name for name, (*_, number) in CASES.items() if number == processes]
    if DEPTHS in names:
        write_scenes_of_different_depths(tmp_path / "scenes")
        CASES[DEPTHS][0]["data"] |= {"source": "folder", "path": str(tmp_path / "scenes")}
    together = learned_together(names, processes, tmp_path)
    for name in names:
        alone, same = learned_alone(name), together[name]
        assert same["losses"] == pytest.approx(alone["losses"], rel=1e-5, abs=1e-5), name
        assert same["samples"] == alone["samples"], name
        # The last are those of validation, which accumulates nothing.
        for epoch, expected in list(zip(same["metrics"], alone["metrics"], strict=True))[
            : -1 if name == LOCAL else None
        ]:
            assert epoch == pytest.approx(expected, rel=1e-4, abs=1e-5), name
        for weight, value in alone["weights"].items():
            assert torch.allclose(same["weights"][weight], value, rtol=1e-5, atol=1e-5), f"{name}: {weight}"
        assert alone["losses"][0] != pytest.approx(alone["losses"][-1], abs=1e-3), f"{name}: it learned nothing"


@pytest.mark.parametrize("processes", [2, 3])
def test_results_layers_and_errors_are_exchanged(processes: int) -> None:
    run_in(processes, EXCHANGES)


def test_several_processes_cannot_use_an_apple_gpu() -> None:
    assert Processes(rank=0, size=1).device("mps") == "mps"
    with pytest.raises(ConfigError, match="mps works in one process only"):
        Processes(rank=1, size=2, local_rank=1).device("mps")
    if not torch.cuda.is_available():
        assert Processes(rank=1, size=2, local_rank=1).device("auto") == "cpu"


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
