"""The commands, the job and the image of docs/scaling.md are what torchrun, SLURM, Kubernetes and dbbd accept."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from torch.distributed.run import get_args_parser

from dbbd_cli.cli.app import app
from dbbd_cli.config.load import parse_override
from dbbd_cli.tasks.configs import load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
JOB = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line and not line.startswith(("#", "python tests/"))
]
SRUN = {"--nodes", "--ntasks-per-node", "--cpus-per-task", "--kill-on-bad-exit"}
SBATCH = {"nodes", "ntasks-per-node", "gpus-per-node", "signal"}


def machines() -> dict[str, Any]:
    found: dict[str, Any] = JOB["spec"]["pytorchReplicaSpecs"]
    return found


def arguments_of_dbbd(command: list[str]) -> list[str]:
    """What of a command is for dbbd, after torchrun and srun have taken their part."""
    if command[0] == "torchrun":
        parsed = get_args_parser().parse_args(command[1:])
        assert (parsed.module, parsed.training_script) == (True, "dbbd_cli")
        return list(parsed.training_script_args)
    if command[0] == "srun":
        options = list(takewhile(lambda word: word.startswith("--"), command[1:]))
        assert {option.split("=")[0] for option in options} <= SRUN
        return arguments_of_dbbd(command[1 + len(options) :])
    assert command[0] == "dbbd", command
    return command[1:]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_commands_have_options_that_exist(command: list[str]) -> None:
    name, *arguments = arguments_of_dbbd(command)
    program: Any = typer.main.get_command(app)
    parent = program.make_context("dbbd", [], resilient_parsing=True)
    context = program.commands[name].make_context(name, list(arguments), parent=parent)
    if config := context.params.get("config"):
        load_config(config, [parse_override(text) for text in context.params["settings"] or ()])


def test_the_script_for_slurm_is_one() -> None:
    (script,) = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "#SBATCH" in block]
    assert script.startswith("#!/bin/bash\n")
    options = re.findall(r"--([\w-]+)=", " ".join(re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)))
    assert set(options) == SBATCH
    if shell := shutil.which("bash"):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_the_job_for_kubernetes_is_one() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert set(machines()) == {"Master", "Worker"}
    for machine in machines().values():
        pod = machine["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "pytorch"
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == JOB["spec"]["nprocPerNode"]
        test_commands_have_options_that_exist(container["command"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs Gloo over localhost names")
def test_the_job_trains_as_its_operator_starts_it(tmp_path: Path) -> None:
    command = machines()["Master"]["template"]["spec"]["containers"][0]["command"]
    run = arguments_of_dbbd(command)[0]
    words = command[: command.index(run)]
    tiny = ["--config", "smoke_url", "--no-plots", "--device", "cpu", "--epochs", "1"]
    settings = ("data.sample_per_class=30", "model.hash_bits=10", "training.batch_size=4")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    operator = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "PET_NODE_RANK": "0"}
    operator |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    # Of a process that the operator has started; torchrun replaces them.
    operator |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words[1:], run, *tiny, *(f"--set={one}" for one in settings)],
        cwd=tmp_path,
        env={**os.environ, **operator},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Processes   2, for batches of 8 URLs" in done.stderr


def test_the_image_has_all_that_the_package_is_built_from(tmp_path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for *sources, target in map(str.split, re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE)):
        for source in sources:
            assert f"!{source}" in ignored
            place = tmp_path / target / source if target == "./" else tmp_path / target
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tmp_path, check=True)
    assert list((tmp_path / "dist").glob("*.whl"))
