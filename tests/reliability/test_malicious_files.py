"""No code of a hostile file runs, whatever command reads it, and the command ends with exit 4 and a clear message."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count as numbers
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from malicious import CONTAINERS, LIES, OBJECTS, PAYLOADS, scene_with, with_digest, with_weights
from program import TINY, environment, without
from typer.testing import CliRunner

from dbbd_cli.cli.app import app
from dbbd_cli.engine.checkpoint.files import BEST, NEWEST, load_checkpoint
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.model.weights import load_tensors

HERE = Path(__file__).parent
ADVICE = re.compile(r"weights_only|safe_globals|allow_pickle|allowlist|Traceback|Warning")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")
UNSAFE = re.compile(r"--[a-z-]*(unsafe|trust|pickle|weights-only|no-check|skip-verif)[a-z-]*")
REASON_IN_SCENES = {  # for payloads inside other payloads
    "map in a Counter": "collections.Counter",
    "storage within": "posix.system",
    "storage within a storage": "torch.storage._load_from_bytes",
    "array of objects": "an array of Python objects",
    "scalar of objects": "an array of Python objects",
}
PLACES = ("run", "alone", "newest", "best", "run with digest")


class Outcome(NamedTuple):
    code: int
    output: str


def dbbd(*arguments: str | Path) -> Outcome:
    """Run a command in this process, which has already imported torch."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Outcome(result.exit_code, result.stderr + result.stdout)


def options_of(task: str, folder: Path) -> list[str]:
    return [*TINY[task], "--epochs", "1", "--quiet", "--set", f"run.runs_dir={folder}"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A finished run of each task."""
    folder = tmp_path_factory.mktemp("trained")
    before = os.environ.get("DBBD_CACHE_DIR")
    os.environ["DBBD_CACHE_DIR"] = str(folder / "cache")
    found = {}
    for task in TINY:
        outcome = dbbd("train", *options_of(task, folder / task))
        assert outcome.code == 0, outcome.output
        (found[task],) = (folder / task).iterdir()
    yield found
    os.environ.pop("DBBD_CACHE_DIR")
    if before is not None:
        os.environ["DBBD_CACHE_DIR"] = before


def targets(run_folder: Path, data: bytes, place: str, folder: Path) -> Path | None:
    """Put a file where a command may find it; returns the argument of the command, None if the place makes no sense."""
    folder.mkdir(exist_ok=True)
    if place == "alone":
        (folder / "weights.pth").write_bytes(data)
        return folder / "weights.pth"
    if place == "run with digest":
        if not (data.startswith(b"PK") and data.endswith(b"\0\0")):
            return None
        data = with_digest(data)
    copy = folder / "run"
    if not copy.exists():
        shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns("*.pth", "events.*"))
    for old in copy.glob("*.pth"):
        old.unlink()
    names = {"newest": [NEWEST], "best": [BEST]}.get(place, [NEWEST, BEST])
    for name in names:
        (copy / name).write_bytes(data)
    return copy if place in ("run", "run with digest") else copy / names[0]


def files(folder: Path) -> Iterator[tuple[str, bytes, Path]]:
    """Name, content, and the file that its code would create."""
    serial = numbers()
    for name, (make, _) in PAYLOADS.items():
        for container, wrap in CONTAINERS.items():
            marker = folder / f"ran-{next(serial)}"
            yield f"{name}, {container}", wrap(make(str(marker))), marker
    for name, lie in LIES.items():
        marker = folder / f"ran-{next(serial)}"
        yield name, lie(str(marker)), marker


def problem(outcome: Outcome, marker: Path, codes: tuple[int, ...], named: str = ".pth") -> str:
    """What is wrong with how a command handled a hostile file; empty if nothing is."""
    if marker.exists():
        return "ITS CODE RAN"
    if outcome.code not in codes:
        return f"exit {outcome.code}: {outcome.output[-300:]}"
    if outcome.code and named not in " ".join(outcome.output.split()):
        return f"{named!r} is not named: {outcome.output[-300:]}"
    return f"says {found[0]!r}" if (found := ADVICE.search(outcome.output)) else ""


def test_an_ordinary_loader_does_run_the_payloads(tmp_path: Path) -> None:
    """The control: with payloads that do nothing, the other tests could not fail."""
    ran = subprocess.run(
        [sys.executable, str(HERE / "malicious.py"), str(tmp_path)],
        env=environment(), capture_output=True, text=True, timeout=300, check=True,
    ).stdout  # fmt: skip
    assert json.loads(ran) == {f"{name}, {how}": True for name in PAYLOADS for how in (*CONTAINERS, "scene")}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_file_of_weights_runs_code_in_any_place(
    runs: dict[str, Path], tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    ways = [(command, place) for place in PLACES for command in ("resume", "evaluate", "validate")]
    every = list(files(tmp_path))[:: count(2, 1)]
    tried, wrong = 0, []
    for number, (name, data, marker) in enumerate(every):
        task = list(runs)[number % len(runs)]
        chosen = [ways[(7 * number + step) % len(ways)] for step in range(count(1, len(ways)))]
        if number % count(40, 2) == 0:  # plotting takes a second
            chosen += [("plot", place) for place in PLACES[: count(1, len(PLACES))]]
        for command, place in chosen:
            target = targets(runs[task], data, place, tmp_path / task)
            if target is None:
                continue
            tried += 1
            outcome = dbbd(command, target, "--quiet")
            if command == "plot":  # draws the run of a checkpoint, which it reads only if one is named
                found = problem(outcome, marker, (0,) if target.is_dir() else (0, 4), str(tmp_path))
            else:
                found = problem(outcome, marker, (4,))
            wrong += [f"{name}: {command}, {place}: {found}"] if found else []
    report(f"{len(every)} files of weights, {tried} commands: {len(wrong)} wrong")
    assert len(every) > count(70, 140)
    assert not wrong, "\n".join(wrong)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_file_of_weights_runs_code_when_training_starts_from_it(
    runs: dict[str, Path], tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    every = list(files(tmp_path))
    chosen = every[:: count(len(every) // 12, 1)]
    wrong = []
    for number, (name, data, marker) in enumerate(chosen):
        task = list(runs)[number % len(runs)]
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        options = [*options_of(task, tmp_path / "new"), "--set", f"model.weights={path}"]
        found = problem(dbbd("train", *options), marker, (4,))
        wrong += [f"{name}: {found}"] if found else []
    report(f"{len(chosen)} trainings: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.glob("new/*"))


def test_objects_stored_with_weights_never_become_more_than_attributes(
    runs: dict[str, Path], tmp_path: Path, report: Callable[[str], None]
) -> None:
    path, marker, wrong = tmp_path / "weights.pth", tmp_path / "ran", []
    for name, content in OBJECTS.items():
        path.write_bytes(with_weights(content))
        found = problem(dbbd("evaluate", path, "--quiet"), marker, (4,))
        wrong += [f"{name}: {found}"] if found else []
    path.write_bytes(with_weights(OBJECTS["a class with arguments"]))
    shutil.copyfile(path, (run := shutil.copytree(runs["dbbd"], tmp_path / "run")) / BEST)
    found = problem(dbbd("validate", run / BEST), marker, (4,), "evil.Config")  # runs contain no objects at all
    wrong += [found] if found else []
    report(f"{len(OBJECTS)} objects stored with weights, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)


def test_no_scene_runs_code(
    runs: dict[str, Path], tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    scenes = tmp_path / "scenes"
    for split in ("train", "val"):
        (scenes / split).mkdir(parents=True)
        for name in ("first", "second"):
            (scenes / split / f"{name}.pkl").write_bytes(scene_with(b"\x80\x02N."))
    weights = tmp_path / "weights.pth"
    shutil.copyfile(runs["dbbd"] / BEST, weights)
    where = ["--quiet", "--set", "data.source=folder", "--set", f"data.path={scenes}"]
    commands = {
        "train": ["train", *without(options_of("dbbd", tmp_path / "new"), "data.synthetic_"), *where],
        "evaluate": ["evaluate", weights, *where, "--split", "val"],
    }
    for command, arguments in commands.items():
        assert (outcome := dbbd(*arguments)).code == 0, (command, outcome.output)
    shutil.rmtree(tmp_path / "new")
    wrong, tried = [], 0
    path = scenes / "val" / "bad.pkl"
    for number, (name, (make, reason)) in enumerate(PAYLOADS.items()):
        marker = tmp_path / f"ran-{number}"
        path.write_bytes(scene_with(make(str(marker))))
        for command, arguments in commands.items():
            if command == "evaluate" and number % count(8, 1):
                continue
            tried += 1
            outcome = dbbd(*arguments)
            named = REASON_IN_SCENES.get(name, reason)
            named = named if " " in named else named.rpartition(".")[2]  # Python 2 had other modules
            found = problem(outcome, marker, (3,), named)
            found = found or ("" if str(path) in outcome.output else "the file is not named")
            wrong += [f"{name}: {command}: {found}"] if found else []
    report(f"{len(PAYLOADS)} scenes, {tried} commands: {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert not list(tmp_path.glob("new/*"))


def nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**18, 10**400, 1e308, float("nan"), "", "x\x1b[2J\u202e", b"x", [], {}, (), [1], {1: 2}),
    *(nested(90), {f"key{n}": n for n in range(5000)}, "y" * 10**6, torch.zeros(3), torch.tensor(float("nan"))),
)
"""Values put in the place of a part of a checkpoint."""


def places(state: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The parts of a checkpoint, and the parts of these that are not tensors."""
    for key, value in state.items():
        yield (key,)
        if isinstance(value, dict) and key not in ("module", "optimizer"):
            for inner, deeper in value.items():
                yield key, inner
                if isinstance(deeper, dict) and key == "config":
                    yield from ((key, inner, name) for name in deeper)


def test_a_checkpoint_of_the_right_form_with_wrong_content_is_refused(
    runs: dict[str, Path], tmp_path: Path, count: Callable[[int, int], int], report: Callable[[str], None]
) -> None:
    """Written by the program's own function, so that the digest matches: any part may be anything."""
    wrong, codes = [], Counter[int]()
    for task, run_folder in runs.items():
        copy = tmp_path / task
        shutil.copytree(run_folder, copy, ignore=shutil.ignore_patterns("*.pth", "events.*"))
        whole = load_checkpoint(run_folder / NEWEST)
        cases = [(place, value) for place in places(whole) for value in VALUES]
        for number, (place, value) in enumerate(cases[:: count(len(cases) // 8, 3)]):
            state = changed(whole, place, value)
            (copy / NEWEST).unlink(missing_ok=True)
            save_with_digest(state, copy / NEWEST)
            command = ("validate", "resume")[number % 2]
            outcome = dbbd(command, copy / NEWEST, "--quiet")
            codes[outcome.code] += 1
            told = f"{task}: {command}: {'.'.join(place)} = {str(value)[:30]!r}"
            if outcome.code not in (0, 2, 3, 4, 5, 6):
                wrong.append(f"{told}: exit {outcome.code}: {outcome.output[-300:]}")
            elif CONTROL.search(outcome.output):
                wrong.append(f"{told}: control characters")
    report(f"{codes.total()} checkpoints, {len(wrong)} wrong; exit codes {dict(codes)}")
    assert not wrong, "\n".join(wrong)


def changed(state: Any, place: tuple[str, ...], value: Any) -> Any:
    """A copy of nested dicts with another value at one place."""
    return {**state, place[0]: changed(state[place[0]], place[1:], value)} if place else value


def test_no_option_turns_the_safety_off() -> None:
    for command in ("train", "resume", "evaluate", "validate", "plot", "smoke"):
        outcome = dbbd(command, "--help")
        assert outcome.code == 0
        assert not UNSAFE.search(outcome.output)


def test_no_variable_turns_the_safety_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    path.write_bytes(CONTAINERS["zip"](PAYLOADS["os.system"][0](str(marker))))
    assert not problem(dbbd("evaluate", path), marker, (4,), "posix.system")


def test_the_program_reads_its_own_checkpoints(runs: dict[str, Path]) -> None:
    for run_folder in runs.values():
        found = sorted(run_folder.glob("*.pth"))
        assert len(found) >= 2
        for path in found:
            assert load_checkpoint(path)["module"]


@pytest.mark.parametrize("old", [False, True])
def test_files_of_torch_save_are_read(tmp_path: Path, old: bool) -> None:
    """Tensors and plain values of every kind, in both formats of torch.save."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    network(torch.rand(2, 3, 6, 6)[..., :4, :]).sum().backward()
    states: dict[str, Any] = {"module": network.state_dict(), "weight": network[0].weight, "names": ("a", None, b"b")}
    for make in (torch.optim.AdamW, torch.optim.SGD):
        optimizer = make(network.parameters(), lr=0.1)
        optimizer.step()
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
        states[make.__name__] = [optimizer.state_dict(), schedule.state_dict()]
    base = torch.arange(24.0)
    states |= {"view": base[3:9], "turned": base.view(4, 6).t(), "whole": base, "none": torch.zeros(0, 3)}
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool]
    kinds += [torch.complex64] if old else [torch.complex64, torch.uint16, torch.float8_e4m3fn]
    states |= {str(kind): torch.ones(3).to(kind) for kind in kinds}
    states |= {"kind": torch.float32, "size": torch.Size([1, 2]), "device": torch.device("cpu"), "set": {1, 2}}
    states |= {"random": torch.get_rng_state(), "large": 2**100, "bytes": bytearray(b"x"), "complex": 1j}
    torch.save(states, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    found = load_tensors(tmp_path / "x.pth")
    assert isinstance(found, dict)
    assert found.keys() == states.keys()
    assert torch.equal(found["turned"], states["turned"])
    assert found["whole"].untyped_storage().data_ptr() == found["view"].untyped_storage().data_ptr()
    assert all(torch.equal(found[str(kind)], states[str(kind)]) for kind in kinds)
    assert isinstance(found["weight"], torch.nn.Parameter)
    assert found["module"].keys() == network.state_dict().keys()
    network.load_state_dict(found["module"])
