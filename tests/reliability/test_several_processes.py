"""Several processes train together what one trains, end together, and continue where they stopped."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from program import TINY, differences, environment, only_run, run, start, whole_state

from dbbd_cli.runs.folder import locked

if sys.platform == "win32":
    pytest.skip("needs signals", allow_module_level=True)

OPTIONS = [*TINY["url_classification"], "--set", "checkpoint.every_steps=3", "--set", "training.optimizer=sgd"]
EPOCHS = 40
STEPS = 6
"""Of an epoch."""
SECONDS = 300.0


def nproc(number: int, *arguments: str) -> list[str]:
    return [*arguments, "--nproc", str(number)]


def ranks(launcher: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The processes that a launcher has started, by rank."""
    found = {}
    for process in psutil.Process(launcher.pid).children():
        try:
            found[int(process.environ()["RANK"])] = process
        except (psutil.Error, KeyError):
            continue
    return found


def start_torchrun(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start the program by torchrun, in two processes that are restarted once."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [sys.executable, *torchrun, "-m", "dbbd_cli", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=pipe, stderr=pipe, text=True)


def task(rank: int, step: int) -> dict[str, str]:
    """The environment of one of two processes that `srun` starts on this machine."""
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": str(step), "SLURM_STEP_NODELIST": "localhost"}
    return environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_STEP_NUM_TASKS="2")


def start_tasks(folder: Path, step: int) -> list[subprocess.Popen[str]]:
    """Start training as the two tasks of `srun`."""
    options = ("train", *OPTIONS, "--epochs", str(EPOCHS))
    return [start(*options, folder=folder, env=task(rank, step)) for rank in range(2)]


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def steps(folder: Path) -> int:
    """Steps in the history of the only run; 0 if it has not begun."""
    histories = list(folder.glob("runs/*/history.jsonl"))
    return histories[0].read_text().count('"step"') if histories else 0


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (only_run(folder) / "history.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "step"]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that two processes have trained to its end."""
    folder = tmp_path_factory.mktemp("together")
    code, out, err = run(*nproc(2, "train", *OPTIONS, "--epochs", str(EPOCHS)), folder=folder, seconds=SECONDS)
    assert code == 0, err
    assert out.count("Training finished") == 1
    assert re.search(rf"dbbd resume \S+ --epochs {2 * EPOCHS} --nproc 2", out)
    assert len(re.findall(r"^epoch +train loss", err, re.MULTILINE)) == 1, "only the first process shows progress"
    return folder


def test_two_processes_train_what_one_trains(together: Path, tmp_path: Path) -> None:
    larger = ["--set", "training.batch_size=8"]
    code, _, err = run("train", *OPTIONS, *larger, "--epochs", str(EPOCHS), folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    assert losses(together) == pytest.approx(losses(tmp_path), rel=1e-5, abs=1e-5)
    alone = whole_state(only_run(tmp_path))["module"]
    for name, value in whole_state(only_run(together))["module"].items():
        assert (value - alone[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_continues_with_another_number_of_processes(processes: int, together: Path, tmp_path: Path) -> None:
    launcher = start(*nproc(2, "train", *OPTIONS, "--epochs", str(EPOCHS)), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 12, launcher)
    launcher.send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 128 + signal.SIGTERM, err
    assert err.count("everything is saved") == 1
    state = whole_state(only_run(tmp_path))["state"]
    assert 0 < state["step"] < EPOCHS * 4
    code, _, err = run(*nproc(processes, "resume", str(only_run(tmp_path))), folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    assert f"Processes   {processes}, for batches of 8 URLs" in err
    assert losses(tmp_path) == pytest.approx(losses(together), rel=1e-5, abs=1e-5)


def test_after_a_process_was_killed_the_run_resumes_to_the_same_result(
    together: Path, tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    wanted, chance, longest = count(2, 20), random.Random(5), 0.0
    for number in range(wanted):
        folder = tmp_path / str(number)
        folder.mkdir()
        launcher = start(*nproc(2, "train", *OPTIONS, "--epochs", str(EPOCHS), "--json"), folder=folder)
        moment = 3 + chance.randrange(60)
        until(lambda: steps(folder) >= moment, launcher)  # noqa: B023
        victim = ranks(launcher)[number % 2]
        began = time.monotonic()
        victim.kill()
        out, err = launcher.communicate(timeout=SECONDS)
        longest = max(longest, time.monotonic() - began)
        assert launcher.returncode == 8, err
        assert f"Error: process {number % 2 + 1} was ended by SIGKILL" in err
        assert err.count("another process has ended") == err.count("continue with: dbbd resume") == 1, err
        assert "Traceback" not in err
        described = json.loads(out)["error"]  # one object
        assert (described["kind"], described["exit_code"]) == ("process", 8)
        assert described["hint"].endswith("--nproc 2")
        code, _, err = run(*nproc(2, "resume", str(only_run(folder))), folder=folder, seconds=SECONDS)
        assert code == 0, err
        assert not differences(whole_state(only_run(folder)), whole_state(only_run(together)))
    assert longest < 60
    report(f"{wanted} processes killed: the others ended, and each run was resumed and ended bit-identical")


def test_if_the_launcher_is_killed_the_processes_save_and_end(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = nproc(2, "train", *OPTIONS, "--epochs", "1000")
    launcher = start(*options, folder=tmp_path, env=environment(TMPDIR=str(temporary)), stderr=subprocess.DEVNULL)
    until(lambda: steps(tmp_path) >= 10, launcher)
    left = [*ranks(launcher).values()]
    launcher.kill()
    launcher.communicate(timeout=SECONDS)
    assert not psutil.wait_procs(left, timeout=60)[1]
    assert not [*temporary.glob("tmp*")]
    assert "everything is saved" in (only_run(tmp_path) / "run.log").read_text()
    assert whole_state(only_run(tmp_path))["state"]["step"] == len(losses(tmp_path))
    with locked(only_run(tmp_path)):
        pass


def test_a_second_ctrl_c_ends_a_process_that_hangs(tmp_path: Path) -> None:
    launcher = start(*nproc(2, "train", *OPTIONS, "--epochs", "1000"), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 10, launcher)
    left = ranks(launcher)
    left[1].suspend()
    launcher.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.wait(timeout=3)
    launcher.send_signal(signal.SIGTERM)  # from a batch system, which may repeat it: they may still be saving
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.wait(timeout=1)
    launcher.send_signal(signal.SIGINT)
    _, err = launcher.communicate(timeout=30)
    assert launcher.returncode == 128 + signal.SIGINT, err
    assert "Traceback" not in err
    assert not psutil.wait_procs([*left.values()], timeout=10)[1]


def test_ctrl_c_ends_a_process_that_waits_for_others(tmp_path: Path) -> None:
    process = start("train", *OPTIONS, folder=tmp_path, env=task(0, step=2))
    port = 20_000 + (os.getpid() + 2) % 12_000
    found = psutil.Process(process.pid)
    until(lambda: any(place.laddr.port == port for place in found.net_connections("tcp")), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT, "130 in a shell"


def test_a_signal_to_one_process_stops_all(together: Path, tmp_path: Path) -> None:
    launcher = start(*nproc(2, "train", *OPTIONS, "--epochs", str(EPOCHS)), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 10, launcher)
    ranks(launcher)[1].send_signal(signal.SIGUSR1)
    _, err = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 128 + signal.SIGUSR1, err
    assert err.count("everything is saved") == 1
    code, _, err = run(*nproc(2, "resume", str(only_run(tmp_path))), folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    assert not differences(whole_state(only_run(tmp_path)), whole_state(only_run(together)))


def test_torchrun_restarts_a_run_from_its_newest_checkpoint(together: Path, tmp_path: Path) -> None:
    launcher = start_torchrun("train", *OPTIONS, "--epochs", str(EPOCHS), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 20, launcher)
    ranks(launcher)[1].kill()
    _, err = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 0, err
    assert re.search(r"Continuing with epoch [1-9]", err)
    assert not differences(whole_state(only_run(tmp_path)), whole_state(only_run(together)))


def test_a_restart_continues_the_branch_of_an_older_checkpoint(together: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copytree(only_run(together), tmp_path / "runs" / "begun")
    older = tmp_path / "runs" / "begun" / "ckpt.previous.pth"
    process = start_torchrun("resume", str(older), "--epochs", "60", folder=tmp_path)
    written = (only_run(together) / "history.jsonl").read_text().count('"step"')

    def branch_grows() -> bool:
        return any(path.read_text().count('"step"') > written + 10 for path in tmp_path.glob("runs/2*/history.jsonl"))

    until(branch_grows, process)
    ranks(process)[1].kill()
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert len([*tmp_path.glob("runs/*")]) == 2, err
    (branch,) = tmp_path.glob("runs/2*")
    assert whole_state(branch)["state"]["step"] == 60 * STEPS


def test_srun_starts_processes_that_find_each_other(together: Path, tmp_path: Path) -> None:
    started = start_tasks(tmp_path, step=1)
    ended = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    assert ended[1] == ("", "")
    assert not differences(whole_state(only_run(tmp_path)), whole_state(only_run(together)))


def test_if_the_first_task_of_srun_is_killed_another_says_how_to_continue(tmp_path: Path) -> None:
    started = start_tasks(tmp_path, step=3)
    until(lambda: steps(tmp_path) >= 10, started[0])
    started[0].kill()
    ended = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [-signal.SIGKILL, 8], ended
    assert ended[1][1].count("continue with: dbbd resume") == 1


def test_a_batch_that_one_process_cannot_load_ends_all_and_is_reported_once(together: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--epochs", str(EPOCHS), "--set", "data.num_workers=1"]
    launcher = start(*nproc(2, "train", *options), folder=tmp_path)
    until(lambda: steps(tmp_path) >= 10, launcher)
    for worker in ranks(launcher)[1].children():
        worker.kill()
    _, err = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 3, err
    assert err.count("Error") == err.count("Error: process 2 of 2: a data worker") == 1, err
    code, _, err = run(*nproc(2, "resume", str(only_run(tmp_path))), folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    assert losses(tmp_path) == losses(together)


def test_the_learning_rate_can_grow_with_the_batches(tmp_path: Path) -> None:
    options = [*OPTIONS, "--epochs", "1", "--set", "training.learning_rate=0.01", "--set", "training.scheduler=none"]
    scaling = ("--set", "training.scale_learning_rate=linear")
    code, _, err = run(*nproc(2, "train", *options, *scaling), folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    assert "learning rate 0.02" in err
    rows = [json.loads(line) for line in (only_run(tmp_path) / "history.jsonl").read_text().splitlines()]
    assert {row["learning_rate"] for row in rows} == {0.02}
    code, _, err = run("resume", str(only_run(tmp_path)), "--epochs", "2", folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    rows = [json.loads(line) for line in (only_run(tmp_path) / "history.jsonl").read_text().splitlines()]
    assert {row["learning_rate"] for row in rows} == {0.02}


def test_processes_with_other_data_are_refused(tmp_path: Path) -> None:
    started = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        rows = [f"https://{number}.example{rank}.org/,{number % 2}" for number in range(60)]
        (tmp_path / str(rank) / "urls.csv").write_text("\n".join(["url,label", *rows]))
        who = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
        env = environment(**who, MASTER_PORT=str(20_000 + os.getpid() % 10_000))
        options = ("train", *OPTIONS, "--set", "data.path=urls.csv", "--set", "data.label_column=label")
        started.append(start(*options, folder=tmp_path / str(rank), env=env))
    ended = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [3, 3], ended
    assert "process 2 of 2 finds other samples than the first" in ended[0][1]
    assert ended[1] == ("", "")


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_processes_with_another_checkpoint_are_refused(command: str, together: Path, tmp_path: Path) -> None:
    started = []
    for rank in range(2):
        folder = tmp_path / str(rank)
        shutil.copytree(only_run(together), folder / "run")
        if rank:
            (folder / "run" / "ckpt.previous.pth").replace(folder / "run" / "ckpt.pth")
        started.append(start(command, "run/ckpt.pth", folder=folder, env=task(rank, step=5)))
    ended = [process.communicate(timeout=SECONDS) for process in started]
    assert [process.returncode for process in started] == [4, 4], ended
    assert "process 2 of 2 has read another checkpoint than the first" in ended[0][1]
    assert ended[1] == ("", "")


def test_errors_are_shown_once(tmp_path: Path) -> None:
    code, _, err = run(
        *nproc(2, "train", "--config", "qr_url", "--set", f"data.path={tmp_path / 'none'}"), folder=tmp_path
    )
    assert (code, err.count("Error")) == (3, 1), err
    process = start("smoke", folder=tmp_path, env=environment(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2"))
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 2
    assert "2 processes were started for a command that needs only one" in err
    for arguments in (["train", "--config", "none"], ["train", "--epochs", "x"], ["plot", "runs"], ["resume", "none"]):
        started = [start(*arguments, folder=tmp_path, env=task(rank, step=4)) for rank in range(2)]
        ended = [process.communicate(timeout=SECONDS)[1] for process in started]
        assert started[0].returncode == started[1].returncode, ended
        assert (ended[0].count("Error"), ended[1]) == (1, ""), ended


@pytest.mark.parametrize("task", ["dbbd", "segmentation"])
def test_scenes_train_and_validate_in_several_processes(task: str, tmp_path: Path) -> None:
    code, _, err = run(*nproc(2, "train", *TINY[task], "--epochs", "2"), folder=tmp_path, seconds=SECONDS)
    assert (code, err.count("Warning")) == (0, 0), err
    code, out, err = run(*nproc(2, "validate", str(only_run(tmp_path)), "--json"), folder=tmp_path, seconds=SECONDS)
    assert (code, err.count("Warning")) == (0, 0), err
    found = json.loads(out)
    assert found["metrics"] == pytest.approx(found["logged"], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("task", "processes"), [("url_classification", 3), ("image_classification", 2), ("dbbd", 2), ("segmentation", 2)]
)
def test_processes_evaluate_together_what_one_evaluates(task: str, processes: int, tmp_path: Path) -> None:
    code, _, err = run("train", *TINY[task], "--epochs", "1", folder=tmp_path, seconds=SECONDS)
    assert code == 0, err
    # Of two batches, one of three processes gets none.
    options = ["--set", "training.batch_size=8"] if processes == 3 else []
    for number in (1, processes):
        command = ["evaluate", str(only_run(tmp_path)), *options, "--no-plots", "--out", str(number)]
        code, out, err = run(*nproc(number, *command), folder=tmp_path, seconds=SECONDS)
        assert (code, err.count("Warning"), err.count("Measuring speed")) == (0, 0, 1), err
        assert out.count("\nEfficiency") == 1, out
    alone, together = (contents(tmp_path / str(number)) for number in (1, processes))
    assert together == alone


def contents(folder: Path) -> dict[str, object]:
    """The files of an evaluation, without what it cost."""
    found: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = json.loads((folder / "evaluation.json").read_text())
    report.pop("efficiency")
    return {**found, "evaluation.json": report}
