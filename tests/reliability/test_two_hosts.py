"""Two hosts, each in a network namespace of its own, train together; the link between them is cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from program import TINY, differences, environment, only_run, run, whole_state

ADDRESSES = ("10.77.31.1", "10.77.31.2")
LINK = "joined"
OPTIONS = [*TINY["url_classification"], "--set", "checkpoint.every_steps=3", "--epochs", "40"]
TIMEOUT = 10
SECONDS = 300.0


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


@dataclass
class Hosts:
    """Two network namespaces, joined by a pair of virtual interfaces."""

    names: tuple[str, str]

    def cut(self) -> None:
        assert ip("-n", self.names[1], "link", "set", LINK, "down").returncode == 0

    def restore(self) -> None:
        assert ip("-n", self.names[1], "link", "set", LINK, "up").returncode == 0

    def start(self, folder: Path, *arguments: str, max_restarts: int = 0) -> list[subprocess.Popen[str]]:
        """Start torchrun on both hosts, with one process each; with restarts, the hosts find each other by c10d."""
        where = ["--nnodes", "2", "--nproc-per-node", "1"]
        if max_restarts:
            where += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--rdzv-id", "job"]
            where += ["--max-restarts", str(max_restarts)]
        else:
            where += ["--master-addr", ADDRESSES[0], "--master-port", "29401"]
        started = []
        for rank, name in enumerate(self.names):
            own = ["--node-rank", str(rank)]
            if max_restarts:
                own = ["--local-addr", ADDRESSES[rank], "--rdzv-conf", f"is_host={int(rank == 0)}"]
            torchrun = [sys.executable, "-m", "torch.distributed.run", *where, *own]
            command = ["ip", "netns", "exec", name, *torchrun, "-m", "dbbd_cli", *arguments]
            env = environment(GLOO_SOCKET_IFNAME=LINK)
            pipe = subprocess.PIPE
            started.append(subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True))
        return started


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs Linux, root and the command ip")
    names = (f"dbbd-{os.getpid()}-0", f"dbbd-{os.getpid()}-1")
    try:
        if any(ip("netns", "add", name).returncode for name in names):
            pytest.skip("network namespaces cannot be made")
        pair = ip("-n", names[0], "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", names[1])
        if pair.returncode:
            pytest.skip(f"virtual interfaces cannot be made: {pair.stderr.strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", LINK).returncode == 0
            for interface in ("lo", LINK):
                assert ip("-n", name, "link", "set", interface, "up").returncode == 0
        yield Hosts(names)
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that two processes of one host have trained to its end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    code, _, err = run("train", *OPTIONS, "--nproc", "2", folder=folder, seconds=SECONDS)
    assert code == 0, err
    return folder


def until_trained(steps: int, folder: Path, both: list[subprocess.Popen[str]]) -> None:
    """Wait until the only run in a folder has trained some steps."""
    deadline = time.monotonic() + SECONDS
    while not any(path.read_text().count('"step"') > steps for path in folder.glob("runs/*/history.jsonl")):
        assert all(process.poll() is None for process in both), [process.communicate() for process in both]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_that_was_killed_is_restarted_on_both_hosts(
    hosts: Hosts, uninterrupted: Path, tmp_path: Path
) -> None:
    both = hosts.start(tmp_path, "train", *OPTIONS, max_restarts=3)
    for number in range(2):
        until_trained(20 + 60 * number, tmp_path, both)
        # Of one host, then of the other: torchrun counts the restarts of each host separately.
        (process,) = psutil.Process(both[1 - number].pid).children()
        process.kill()
    ended = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert ended[0][1].count("Continuing with epoch") == 2
    assert not differences(whole_state(only_run(tmp_path)), whole_state(only_run(uninterrupted)))


def test_a_run_on_two_hosts_survives_a_cut_of_their_link(hosts: Hosts, uninterrupted: Path, tmp_path: Path) -> None:
    folder, limit = tmp_path, ("--set", f"run.process_timeout={TIMEOUT}")
    both = hosts.start(folder, "train", *OPTIONS, *limit)
    until_trained(20, folder, both)
    hosts.cut()
    began = time.monotonic()
    ended = [process.communicate(timeout=SECONDS) for process in both]
    assert time.monotonic() - began < 60 + TIMEOUT
    assert all(process.returncode for process in both)
    assert "Error: another process" in ended[0][1]
    assert "continue with: dbbd resume" in ended[0][1]
    hosts.restore()
    both = hosts.start(folder, "resume", str(only_run(folder)), *limit)
    ended = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert not differences(whole_state(only_run(folder)), whole_state(only_run(uninterrupted)))
