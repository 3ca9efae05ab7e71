"""A network that is divided among processes trains like a whole one, and its checkpoints outlive their processes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from program import TINY, differences, only_run, run, start, whole_state
from test_several_processes import SECONDS, losses, nproc, ranks, steps, until

from dbbd_cli.engine.checkpoint.files import load_checkpoint

if sys.platform == "win32":
    pytest.skip("needs signals", allow_module_level=True)

EPOCHS = 20
OPTIONS = [
    *TINY["url_classification"],
    *("--epochs", str(EPOCHS), "--set", "checkpoint.every_steps=3", "--set", "training.optimizer=sgd"),
]
DIVIDED = ["--set", "run.shard_model=true"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in which each of two processes has the whole network."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = run(*nproc(2, "train", *OPTIONS), folder=folder, seconds=SECONDS)
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of a divided network."""
    folder = tmp_path_factory.mktemp("divided")
    code, _, err = run(*nproc(2, "train", *OPTIONS, *DIVIDED), folder=folder, seconds=SECONDS)
    assert (code, err.count("Warning")) == (0, 0), err
    return folder


def weights(folder: Path, name: str = "ckpt.pth") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(only_run(folder) / name)["module"]
    return found


def shards(run_folder: Path) -> set[str]:
    return {path.name for path in run_folder.glob("shards-*")}


def assert_ends_like(folder: Path, whole: Path) -> None:
    assert losses(folder) == pytest.approx(losses(whole), rel=1e-5, abs=1e-5)
    expected = weights(whole)
    for name, value in weights(folder).items():
        assert torch.allclose(value, expected[name], rtol=1e-5, atol=1e-5), name


def test_a_divided_network_learns_what_a_whole_one_learns(whole: Path, divided: Path) -> None:
    assert_ends_like(divided, whole)
    folder = only_run(divided)
    # The parts of exactly those checkpoints that exist, from both processes.
    used = {torch.load(path, weights_only=True)["shards"]["folder"] for path in folder.glob("*.pth")}
    assert shards(folder) == used
    assert all(len(list((folder / name).iterdir())) == 2 for name in used)
    assert weights(divided).keys() - whole_state(folder)["module"].keys()


@pytest.mark.parametrize("processes", [1, 3])
def test_a_divided_run_continues_in_any_number_of_processes(processes: int, whole: Path, tmp_path: Path) -> None:
    launcher = start(*nproc(2, "train", *OPTIONS, *DIVIDED), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 12, launcher)
    ranks(launcher)[1].send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 128 + signal.SIGTERM, err
    state = whole_state(only_run(tmp_path))["state"]
    assert 0 < state["step"] < EPOCHS * 4
    resume = nproc(processes, "resume", str(only_run(tmp_path)))
    code, _, err = run(*resume, folder=tmp_path, seconds=SECONDS)
    assert (code, err.count("Warning")) == (0, 0), err
    network = "divided among the processes" if processes > 1 else "whole: there is only one process"
    assert f"Network     {network}" in err
    assert_ends_like(tmp_path, whole)
    assert bool(shards(only_run(tmp_path))) == (processes > 2)


def test_a_whole_run_continues_divided(whole: Path, tmp_path: Path) -> None:
    launcher = start(*nproc(2, "train", *OPTIONS), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 12, launcher)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=SECONDS)
    resume = nproc(2, "resume", str(only_run(tmp_path)), *DIVIDED)
    code, _, err = run(*resume, folder=tmp_path, seconds=SECONDS)
    assert (code, err.count("Warning")) == (0, 0), err
    assert_ends_like(tmp_path, whole)
    assert shards(only_run(tmp_path))


def test_after_a_process_was_killed_a_divided_run_resumes_to_the_same_result(
    divided: Path, tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    wanted, chance = count(1, 20), random.Random(7)
    for number in range(wanted):
        folder = tmp_path / str(number)
        folder.mkdir()
        launcher = start(*nproc(2, "train", *OPTIONS, *DIVIDED), folder=folder)
        moment = 3 + chance.randrange(50)
        until(lambda: steps(folder) >= moment, launcher)  # noqa: B023
        ranks(launcher)[(number + 1) % 2].kill()
        _, err = launcher.communicate(timeout=SECONDS)
        assert (launcher.returncode, err.count("Traceback")) == (8, 0), err
        code, _, err = run(*nproc(2, "resume", str(only_run(folder))), folder=folder, seconds=SECONDS)
        assert code == 0, err
        states = [load_checkpoint(only_run(place) / "ckpt.pth") for place in (folder, divided)]
        assert not differences(states[0]["module"], states[1]["module"])
        assert not differences(states[0]["optimizer"], states[1]["optimizer"])
        used = {torch.load(path, weights_only=True)["shards"]["folder"] for path in only_run(folder).glob("*.pth")}
        assert shards(only_run(folder)) == used
    report(f"{wanted} processes of divided runs killed: each run was resumed and ended bit-identical")


def test_a_damaged_part_costs_only_its_checkpoint(whole: Path, tmp_path: Path) -> None:
    launcher = start(*nproc(2, "train", *OPTIONS, *DIVIDED), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 20, launcher)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=SECONDS)
    folder = only_run(tmp_path)
    part = next((folder / whole_state(folder)["shards"]["folder"]).iterdir())
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    code, _, err = run(*nproc(2, "resume", str(folder)), folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    assert "is damaged: its SHA-256 does not match. Using ckpt.previous.pth instead" in err
    assert (folder / "ckpt.damaged.pth").exists()
    assert part.exists(), "nothing of a damaged checkpoint is deleted"
    assert_ends_like(tmp_path, whole)


def test_an_older_divided_checkpoint_continues_in_a_new_folder(divided: Path, tmp_path: Path) -> None:
    shutil.copytree(divided / "runs", tmp_path / "runs")
    old = only_run(tmp_path)
    before = {path: path.read_bytes() for path in old.rglob("*.safetensors")}
    resume = nproc(2, "resume", str(old / "ckpt.previous.pth"), "--epochs", str(EPOCHS + 1))
    code, _, err = run(*resume, folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    (new,) = set(old.parent.iterdir()) - {old}
    assert len(json.loads((new / "history.jsonl").read_text().splitlines()[-1])["val"])
    assert load_checkpoint(new / "ckpt.pth")["state"]["epoch"] == EPOCHS + 2
    assert {path: path.read_bytes() for path in old.rglob("*.safetensors")} == before


def test_a_divided_network_is_validated_and_exported(divided: Path, tmp_path: Path) -> None:
    folder = only_run(divided)
    code, out, err = run(*nproc(2, "validate", str(folder), "--json"), folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    found = json.loads(out)
    assert found["metrics"] == pytest.approx(found["logged"], rel=1e-4, abs=1e-5)
    code, _, err = run("export", str(folder), "--out", "net.pth", folder=tmp_path)
    assert code == 0, err
    exported = torch.load(tmp_path / "net.pth", weights_only=True)
    assert not differences(exported, weights(divided, "best_model.pth"))
