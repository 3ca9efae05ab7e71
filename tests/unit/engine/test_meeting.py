"""Processes meet, also after a restart with the store of those before, and a failure of one is that of all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from dbbd_cli.core.errors import ConfigError, ProcessError
from dbbd_cli.core.processes import Member, from_environment
from dbbd_cli.engine.processes import Processes, _address_in_slurm, _attempt, joined

SCRIPT = Path(__file__).with_name("shared_meeting.py")
TESTS = Path(__file__).parents[2]


def meet(store: Any, size: int) -> list[str]:
    """The names of the attempt that threads, one for each process, agree on."""
    with ThreadPoolExecutor(size) as pool:
        members = [Member(rank=rank, size=size) for rank in reversed(range(size))]
        return list(pool.map(lambda member: _attempt(store, member, 30.0), members))


def test_processes_of_an_attempt_agree_on_its_name() -> None:
    store = HashStore()
    first, second = meet(store, 3), meet(store, 3)
    assert len({*first}) == len({*second}) == 1
    assert first[0] != second[0]


def test_what_processes_before_a_restart_have_left_is_not_taken() -> None:
    store = HashStore()
    store.set_timeout(timedelta(seconds=0.1))
    for rank in (1, 2):  # asked, and were killed; the first process never came
        with pytest.raises(Exception, match=r"imeout|imed out"):
            _attempt(store, Member(rank=rank, size=3), 30.0)
    store.set_timeout(timedelta(seconds=30))
    assert len({*meet(store, 3)}) == 1


def test_the_first_process_waits_for_all_others() -> None:
    with pytest.raises(ProcessError, match="does not answer"):
        _attempt(HashStore(), Member(rank=0, size=2), 0.1)


def run_attempt(attempt: str, folder: Path, port: int) -> list[dict[str, Any]]:
    started = []
    for rank in range(2):
        who = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        env = {**os.environ, **who, **where, "PYTHONPATH": str(TESTS)}
        command = [sys.executable, str(SCRIPT), attempt, str(folder)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True))
    try:
        ended = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [9 if attempt == "killed" else 0] * 2, ended
    return [json.loads(out) for out, _ in ended]


def test_processes_that_are_restarted_meet_again_and_fail_together(tmp_path: Path) -> None:
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    before = run_attempt("killed", tmp_path, agent.port)
    after = run_attempt("trained", tmp_path, agent.port)
    assert before[0]["begun"] == ["None", "None"]
    assert [found["begun"] for found in after] == [[str(tmp_path), "None"]] * 2
    assert before[0]["pids"] == before[1]["pids"]
    assert after[0]["pids"] == after[1]["pids"]
    assert not {*before[0]["pids"]} & {*after[0]["pids"]}
    # One of them could not read its validation data.
    failure = ["process 2 of 2: a point cannot be read", "draw it again", True, 2]
    assert [found["failure"] for found in after] == [failure] * 2


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("localhost", "localhost"),
        ("a,b", "a"),
        ("node[07-10,12]", "node07"),
        ("rack1-node[003-009,012],other[1-2]", "rack1-node003"),
        ("tux[0-3]-ib", "tux0-ib"),
        ("a[1-2]b[3-4]", "a1b3"),
    ],
)
def test_processes_of_slurm_meet_at_the_first_host(nodes: str, first: str) -> None:
    step = {"SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "1"}
    found = _address_in_slurm(step)
    assert found["MASTER_ADDR"] == first
    assert 20_000 <= int(found["MASTER_PORT"]) < 32_768
    assert _address_in_slurm({}) == {}


@pytest.mark.parametrize("port", ["x", "0", "70000", ""])
def test_a_port_that_is_none_is_an_error(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ConfigError, match="MASTER_PORT is"), joined(Member(rank=0, size=2), timeout=1):
        pass


def test_a_port_in_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        with pytest.raises(ConfigError, match="is in use"), joined(Member(rank=0, size=2), timeout=5):
            pass


def test_without_local_ranks_processes_must_be_on_one_machine() -> None:
    who = {"RANK": "1", "WORLD_SIZE": "2"}
    assert from_environment({**who, "MASTER_ADDR": "localhost"}) == Member(rank=1, size=2, local_rank=1)
    with pytest.raises(ConfigError, match="LOCAL_RANK is not set"):
        from_environment({**who, "MASTER_ADDR": "node1"})


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    second, third = (Processes(rank=rank, size=3, local_rank=rank) for rank in (1, 2))
    assert [second.device(wanted) for wanted in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert chosen == [1, 1]
    with pytest.raises(ConfigError, match="process 3 of 3 is number 3 on its machine, which has 2 GPUs"):
        third.device("auto")
    with pytest.raises(ConfigError, match="cannot all use cuda:1"):
        second.device("cuda:1")
    # With --gpus-per-task=1, each task of SLURM sees one.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    assert third.device("cuda") == "cuda:0"
    assert Processes().device("cuda:1") == "cuda:1"
