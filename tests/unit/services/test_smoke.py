"""`smoke` checks every promise once, reports each failure as a failed step, and stops for its user only."""

from __future__ import annotations

import signal
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dbbd_cli.config.sections import TaskConfig
from dbbd_cli.config.shipped import shipped_configs
from dbbd_cli.core.errors import ConfigError, DataError, DbbdError, StoppedError
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.core.signals import stop_on_signals
from dbbd_cli.services import smoke as service
from dbbd_cli.services.results import SmokeResult
from dbbd_cli.services.smoke import smoke
from dbbd_cli.tasks.registry import BUILT_IN, get_task

STEPS = ["train", "interrupt", "resume", "compare", "validate", "evaluate", "plot"]
BATCHES = 8
BF16_FOR_IMAGES = (
    "image_classification: bf16 (chosen by auto), dbbd: fp32 (chosen by auto), "
    "segmentation: fp32 (chosen by auto), "
    "url_classification: fp32 (chosen by auto)"
)
SMALLER = {
    "image_classification": {"sample_per_class": 40, "image_size": 32},
    "dbbd": {"synthetic_points": 1000, "max_depth": 2, "synthetic_scenes": 8},
    "segmentation": {"synthetic_points": 1000, "max_depth": 2},
    "url_classification": {"sample_per_class": 40},
}


@pytest.fixture(autouse=True)
def _tiny(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped configurations on less data, and no task of another package."""
    monkeypatch.setattr(service, "task_names", lambda: list(BUILT_IN))
    for task in BUILT_IN:
        config = yaml.safe_load(shipped_configs()[get_task(task).smoke_config].read_text())
        config["data"] |= SMALLER[task]
        file = tmp_path_factory.mktemp("config") / f"{task}.yaml"
        file.write_text(yaml.safe_dump(config))
        monkeypatch.setattr(get_task(task), "smoke_config", str(file))


def checkpoints(result: SmokeResult, run: str, task: str = "image_classification") -> set[str]:
    (folder,) = result.run.glob(f"*-{task}-{run}")
    return {path.name for path in folder.glob("*.pth*")}


def test_the_task_is_tested_even_if_its_configuration_is_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_task("dbbd"), "smoke_config", get_task("image_classification").smoke_config)
    result = smoke(epochs=2, task="dbbd", device="cpu", runs_dir=tmp_path)
    assert [(step.passed, "problems" in step.detail) for step in result.steps] == [(False, True)]


def test_all_steps_pass_and_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    result = smoke(epochs=1, device="cpu", runs_dir=tmp_path)
    assert result.passed
    assert [(step.task, step.name) for step in result.steps] == [(task, name) for task in BUILT_IN for name in STEPS]
    assert result.device.startswith("cpu")
    assert result.precision in ("fp32 (chosen by auto)", BF16_FOR_IMAGES)  # as this processor is
    assert result.synthetic
    assert not (result.run / "cache").exists()
    kept = {"ckpt.pth", "best_model.pth"}
    for task in BUILT_IN:
        assert checkpoints(result, "interrupted", task) == set()
        assert checkpoints(result, "whole", task) == kept


def test_a_single_task_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "train", fake_training({}))
    for task in BUILT_IN:
        assert {step.task for step in smoke(epochs=1, device="cpu", runs_dir=tmp_path, task=task).steps} == {task}


def test_a_resume_that_forgets_a_random_state_fails_the_comparison_even_without_asserts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbbd_cli.engine.trainer.restore_random_state", lambda state: None)
    optimized = types.ModuleType(service.__name__)  # as `python -O` has it
    source = Path(service.__file__).read_text(encoding="utf-8")
    exec(compile(source, service.__file__, "exec", optimize=1), optimized.__dict__)
    result = optimized.smoke(epochs=1, task="image_classification", device="cpu", runs_dir=tmp_path)
    assert [step.name for step in result.steps if not step.passed] == ["compare"]
    assert "differs from the uninterrupted run" in result.steps[-1].detail
    assert (result.run / "cache").is_dir()
    assert "ckpt.pth" in checkpoints(result, "interrupted")


@pytest.mark.parametrize(
    ("error", "detail", "traceback"),
    [
        (DataError("no data", hint="find some"), "no data", False),
        (KeyError("loss"), "KeyError: 'loss'", True),
        (RuntimeError("first line\nsecond " + "word " * 100), "RuntimeError: first line second word", True),
    ],
)
def test_any_error_is_a_failed_step(
    error: Exception, detail: str, traceback: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_keywords: object) -> None:
        raise error

    monkeypatch.setattr(service, "train", fail)
    result = smoke(epochs=1, task="image_classification", device="cpu", runs_dir=tmp_path)
    (step,) = result.steps
    assert not step.passed
    assert step.detail.startswith(detail)
    assert len(step.detail) <= 200
    left = {path.name for path in result.run.iterdir()} - {"SYNTHETIC_DATA.txt"}
    assert left == ({"image_classification-train.traceback.txt"} if traceback else set())


def fake_training(pressed: dict[str, tuple[int, signal.Signals]]) -> Any:
    """Replacement for `train` that counts batches and reacts to signals as training does.

    Args:
        pressed: for each run, the batch during which a signal arrives, and which signal.
    """

    def train(config: TaskConfig, *, progress: Progress) -> Any:
        run = config.run.name.rpartition("-")[2]
        (Path(config.run.runs_dir) / f"now-{config.run.name}").mkdir()
        with stop_on_signals(Silent()) as stop, progress.phase("Epoch 1/1 train", BATCHES) as bar:
            for batch in range(BATCHES):
                bar.advance()
                if run in pressed and pressed[run][0] == batch:
                    signal.raise_signal(pressed[run][1])
                if stop.signal_number is not None:
                    raise StoppedError("stopped", signal_number=stop.signal_number)
        return SimpleNamespace(facts=SimpleNamespace(batches={"train": BATCHES}), best={"loss": 1.0})

    return train


def test_the_planned_signal_does_not_stop_smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "train", fake_training({}))
    steps = smoke(epochs=1, task="image_classification", device="cpu", runs_dir=tmp_path).steps
    assert [(step.name, step.passed) for step in steps] == [("train", True), ("interrupt", True), ("resume", False)]


PLANNED = BATCHES // 2 - 1  # the batch in which smoke itself sends SIGINT


@pytest.mark.parametrize(
    ("run", "batch", "number", "code"),
    [
        ("whole", 1, signal.SIGINT, 130),
        ("whole", 1, signal.SIGTERM, 143),
        ("interrupted", PLANNED - 1, signal.SIGINT, 130),
        ("interrupted", PLANNED, signal.SIGTERM, 143),
    ],
)
def test_a_signal_of_the_user_stops_smoke(
    run: str, batch: int, number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "train", fake_training({run: (batch, number)}))
    with pytest.raises(StoppedError) as caught:
        smoke(epochs=1, device="cpu", runs_dir=tmp_path)
    assert caught.value.exit_code == code


def test_ctrl_c_besides_the_planned_one_or_outside_training_stops_smoke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "train", fake_training({"interrupted": (PLANNED, signal.SIGINT)}))
    with pytest.raises(KeyboardInterrupt):
        smoke(epochs=1, device="cpu", runs_dir=tmp_path)

    def interrupted(*_arguments: object, **_keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(service, "train", fake_training({}))
    monkeypatch.setattr(service, "resume", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smoke(epochs=1, device="cpu", runs_dir=tmp_path)


@pytest.mark.parametrize("wrong", [{"task": "nothing"}, {"epochs": 0}, {"device": "abacus"}])
def test_wrong_arguments_are_refused_before_anything_is_created(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DbbdError) as caught:
        smoke(runs_dir=tmp_path, **wrong)
    assert isinstance(caught.value, ConfigError)
    assert not list(tmp_path.iterdir())
