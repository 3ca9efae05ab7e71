from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from dbbd_cli.config.load import Override, load_config
from dbbd_cli.config.schema import ImageClassificationConfig
from dbbd_cli.data.split import Manifest
from dbbd_cli.engine.checkpoint import load_checkpoint, save_checkpoint
from dbbd_cli.engine.run_folder import locked
from dbbd_cli.errors import CheckpointError, ConfigError, DataError, InUseError, StoppedError
from dbbd_cli.progress import Phase, Silent
from dbbd_cli.services.resume import resume
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import forecast, train

Config = ImageClassificationConfig
Make = Callable[..., Config]


def epochs(number: int) -> list[Override]:
    return [Override("training.epochs", number, "--epochs")]


def assert_same_run(one: Path, two: Path) -> None:
    a, b = load_checkpoint(one / "ckpt.pth"), load_checkpoint(two / "ckpt.pth")
    for part in ("module", "optimizer", "learning_rate", "random"):
        assert same(a[part], b[part], exact=True), part
    assert a["state"]["history"] == b["state"]["history"]
    assert (one / "history.jsonl").read_bytes() == (two / "history.jsonl").read_bytes()
    best_one, best_two = load_checkpoint(one / "best_model.pth"), load_checkpoint(two / "best_model.pth")
    assert same(best_one["module"], best_two["module"], exact=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_epochs_extended_to_four_equal_four_in_one_go(tiny_config: Make, workers: int) -> None:
    settings = {"data.num_workers": workers, "training.warmup_epochs": 1.0, "training.label_smoothing": 0.1}
    whole = train(tiny_config(**settings, **{"training.epochs": 4}))
    half = train(tiny_config(**settings, **{"training.epochs": 2}))
    resumed = resume(half.run, overrides=epochs(4))
    assert resumed.run == half.run
    assert resumed.epochs == 4
    assert_same_run(whole.run, half.run)


class Presses(Silent):
    """Presses Ctrl-C after some units of work of the phases whose title ends in a given word."""

    def __init__(self, word: str, after: int) -> None:
        self.word = word
        self.left = after

    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, noun: str = "samples"
    ) -> Iterator[Phase]:
        presses = self

        class Pressing:
            def advance(self, count: int = 1, samples: int = 0, **values: float) -> None:
                if title.endswith(presses.word):
                    presses.left -= 1
                    if presses.left == 0:
                        signal.raise_signal(signal.SIGINT)

        yield Pressing()


@pytest.mark.parametrize(("phase", "after"), [("train", 1), ("train", 6), ("train", 4), ("validate", 1)])
def test_stopped_by_ctrl_c_and_resumed_it_equals_the_uninterrupted_run(
    tiny_config: Make, phase: str, after: int
) -> None:
    whole = train(tiny_config())
    with pytest.raises(StoppedError) as caught:
        train(tiny_config(run__name="stopped"), progress=Presses(phase, after))
    assert caught.value.exit_code == 130
    assert "dbbd resume" in caught.value.hint
    (stopped,) = whole.run.parent.glob("*-stopped")
    assert resume(stopped).epochs == 2
    assert_same_run(whole.run, stopped)


def test_result_and_run_folder_tell_everything(tiny_config: Make) -> None:
    result = train(tiny_config(run__plots=True), command=["dbbd", "train"])
    assert result.facts.samples == {"train": 28, "val": 6, "test": 6}
    assert result.facts.batches == {"train": 4, "val": 1, "test": 1}
    assert result.facts.synthetic
    names = {path.name for path in result.run.iterdir()}
    expected = (
        "config.yaml environment.json splits.json history.jsonl run.log ckpt.pth ckpt.previous.pth best_model.pth "
        "SYNTHETIC_DATA.txt"
    )
    assert {*expected.split(), "training_history.png"} <= names
    assert load_config(str(result.run / "config.yaml")) == load_config(str(result.run / "config.yaml"))
    assert yaml.safe_load((result.run / "config.yaml").read_text())["training"]["early_stopping_patience"] is None
    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["command"] == ["dbbd", "train"]
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0] or environment["versions"]["torch"]
    assert len(Manifest.load(result.run / "splits.json").samples) == 40
    assert result.best == load_checkpoint(result.checkpoint)["state"]["history"][result.best_epoch - 1]["val"]


def test_a_new_run_never_writes_into_an_old_folder(tiny_config: Make) -> None:
    config = tiny_config(training__epochs=1)
    assert len({train(config).run for _ in range(3)}) == 3


def test_resuming_a_finished_run_changes_nothing_and_says_how_to_go_on(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    before = (run / "ckpt.pth").read_bytes()
    told: list[str] = []

    class Told(Silent):
        def line(self, text: str) -> None:
            told.append(text)

    assert resume(run / "ckpt.pth", progress=Told()).epochs == 1
    assert (run / "ckpt.pth").read_bytes() == before
    assert any("--epochs N" in text for text in told)


def test_resume_goes_on_after_early_stopping_when_asked_for_more(tiny_config: Make) -> None:
    settings = {"training.early_stopping_patience": 1, "training.early_stopping_min_delta": 1e6}
    run = train(tiny_config(**settings, **{"training.epochs": 5})).run
    assert len(load_checkpoint(run / "ckpt.pth")["state"]["history"]) == 2
    assert resume(run, overrides=epochs(5)).epochs == 3


def test_an_older_checkpoint_goes_on_in_a_new_folder(tiny_config: Make) -> None:
    whole = train(tiny_config(training__epochs=3))
    before = {path.name: path.read_bytes() for path in whole.run.iterdir() if path.is_file()}
    result = resume(whole.run / "ckpt.previous.pth")
    assert result.run != whole.run
    assert_same_run(whole.run, result.run)
    assert {path.name: path.read_bytes() for path in whole.run.iterdir() if path.is_file()} == before


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tiny_config: Make) -> None:
    whole = train(tiny_config(training__epochs=3))
    copy = train(tiny_config(training__epochs=3)).run
    (copy / "ckpt.pth").write_bytes(b"\0" + (copy / "ckpt.pth").read_bytes()[1:])
    warnings: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    result = resume(copy, progress=Told())
    assert "is damaged" in warnings[0]
    assert "ckpt.previous.pth" in warnings[0]
    assert_same_run(whole.run, result.run)
    for path in copy.glob("*.pth"):
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError) as caught:
        resume(copy)
    assert len(caught.value.details) == 3


def test_what_cannot_be_resumed_is_told(tiny_config: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        resume(tmp_path / "no" / "such" / "run")
    with pytest.raises(CheckpointError, match="is not in a run folder"):
        resume(tmp_path)
    run = train(tiny_config(training__epochs=1)).run
    checkpoint = load_checkpoint(run / "ckpt.pth")
    checkpoint["module"].pop("network.fc1.weight")
    torch.save(checkpoint, run / "ckpt.pth")
    (run / "ckpt.pth.sha256").unlink()
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        resume(run / "ckpt.pth")
    (run / "splits.json").unlink()
    with pytest.raises(CheckpointError, match=r"splits\.json is missing"):
        resume(run)


def test_a_run_folder_is_used_by_one_process_at_a_time(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    with locked(run), pytest.raises(InUseError, match="in use by process"):
        resume(run)
    resume(run)


@pytest.mark.parametrize("name", ["../up", "/root", "a/b", ".hidden", "a\nb", "\x1b[31m", "", "con ", "x" * 101])
def test_names_that_could_leave_the_folder_are_refused(tiny_config: Make, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        train(tiny_config(run__name=name, training__epochs=1))
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_settings_of_the_model_and_of_training_are_followed(tiny_config: Make) -> None:
    """Each of these keys was once read by nobody."""
    base = train(tiny_config()).run
    changes = {
        "training.label_smoothing": 0.2,
        "training.warmup_epochs": 1.0,
        "training.optimizer": "sgd",
        "training.clip_grad_norm": 0.001,
        "training.weight_decay": 0.9,
        "training.scheduler": "cosine",
        "training.accumulate_batches": 2,
        "training.batch_size": 5,
        "model.dropout": 0.1,
        "data.augment.rotation_degrees": 0.0,
        "data.augment.brightness": 0.0,
        "data.augment.contrast": 0.0,
        "seed": 7,
    }
    weights = load_checkpoint(base / "ckpt.pth")["module"]
    for key, value in changes.items():
        other = train(tiny_config(**{key: value})).run
        assert not same(weights, load_checkpoint(other / "ckpt.pth")["module"], exact=True), key


@pytest.mark.parametrize(
    ("key", "value"), [("data.image_size", 64), ("model.name", "resnet18"), ("data.split.test", 0.2), ("seed", 1)]
)
def test_what_a_run_was_made_with_cannot_change(tiny_config: Make, key: str, value: object) -> None:
    run = train(tiny_config(training__epochs=1)).run
    others = [Override("data.split.train", 0.65, "--set")] if key == "data.split.test" else []
    with pytest.raises(ConfigError) as caught:
        resume(run, overrides=[Override(key, value, f"--set {key}={value}"), *others])
    assert any(key in detail for detail in caught.value.details)
    resume(run, overrides=[Override("seed", 42, "--set seed=42")])  # the same value is no change


def test_settings_given_to_resume_are_followed(tiny_config: Make) -> None:
    plain = train(tiny_config(training__epochs=1)).run
    resume(plain, overrides=epochs(2))
    reference = load_checkpoint(plain / "ckpt.pth")
    changes = {"training.learning_rate": 5e-4, "training.weight_decay": 0.5, "training.batch_size": 4}
    for key, value in changes.items():
        run = train(tiny_config(training__epochs=1)).run
        resume(run, overrides=[*epochs(2), Override(key, value, "--set")])
        changed = load_checkpoint(run / "ckpt.pth")
        assert not same(reference["module"], changed["module"], exact=True), key
    run = train(tiny_config(training__epochs=1)).run
    result = resume(run, overrides=[*epochs(2), Override("training.learning_rate", 5e-4, "--set")])
    assert load_checkpoint(result.checkpoint)["state"]["history"][1]["learning_rate"] == 5e-4


def test_batches_cannot_change_their_size_inside_an_epoch(tiny_config: Make) -> None:
    with pytest.raises(StoppedError):
        train(tiny_config(), progress=Presses("train", 2))
    run = next(Path(tiny_config().run.runs_dir).iterdir())
    with pytest.raises(ConfigError, match="in the middle of an epoch"):
        resume(run, overrides=[Override("training.batch_size", 4, "--set")])


def test_pictures_of_three_classes_train(tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
    root = picture_folder()
    result = train(tiny_config(data__source="folder", data__path=str(root), data__sample_per_class=None))
    assert result.facts.samples == {"train": 18, "val": 3, "test": 3}
    assert not result.facts.synthetic
    assert "cat, dog, owl" in result.facts.data


def test_a_folder_for_each_class_trains(tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
    root = picture_folder()
    classes = {"good": str(root / "owl"), "bad": str(root / "cat")}
    result = train(tiny_config(data__source="classes", data__classes=classes))
    assert Manifest.load(result.run / "splits.json").classes == ("good", "bad")
    assert resume(result.run, overrides=epochs(3)).epochs == 3


def test_bad_data_makes_no_run_folder(tiny_config: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(tiny_config(data__source="folder", data__path=str(tmp_path / "nowhere")))
    assert not (tmp_path / "runs").exists()


def test_forecast_measures_and_writes_nothing(tiny_config: Make, tmp_path: Path) -> None:
    result = forecast(tiny_config(training__epochs=7))
    assert result.epochs == 7
    assert result.seconds_per_epoch > 0
    assert result.seconds_total == pytest.approx(7 * result.seconds_per_epoch)
    assert result.disk_free_mb > 0
    assert not (tmp_path / "runs").exists()
    run = train(tiny_config()).run
    assert result.checkpoint_mb == pytest.approx((run / "ckpt.pth").stat().st_size / 1024**2, rel=0.05)


def test_mid_epoch_checkpoints_lead_to_the_same_end(tiny_config: Make) -> None:
    whole = train(tiny_config())
    often = train(tiny_config(checkpoint__every_steps=1))
    assert_same_run(whole.run, often.run)
    # The one before the newest was made inside the last epoch.
    inside = load_checkpoint(often.run / "ckpt.previous.pth")
    assert inside["state"]["batch"] == 3
    save_checkpoint({k: v for k, v in inside.items() if k != "format"}, often.run, best=False)
    resume(often.run)
    assert_same_run(whole.run, often.run)
