from __future__ import annotations

import json
import os
import signal
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dbbd_cli.config.load import Override, parse_override
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError, DbbdError, DiskError, InUseError, StoppedError
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.data.cache import cache_folder
from dbbd_cli.data.images.dataset import ImageBatch, ImageDataset
from dbbd_cli.data.loader import Key
from dbbd_cli.data.manifest import Manifest
from dbbd_cli.engine.checkpoint.files import load_checkpoint, save_checkpoint
from dbbd_cli.model.digest import write_sealed
from dbbd_cli.runs.folder import locked
from dbbd_cli.services.resume import resume
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import forecast, train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig

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
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
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
    assert load_config(str(result.run / "config.yaml")) == tiny_config(run__plots=True)
    assert yaml.safe_load((result.run / "config.yaml").read_text())["training"]["early_stopping_patience"] is None
    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["command"] == ["dbbd", "train"]
    assert environment["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "resumed" not in environment
    resume(result.run, command=["dbbd", "resume"])
    environment = json.loads((result.run / "environment.json").read_text())
    assert environment["command"] == ["dbbd", "train"]
    assert [entry["command"] for entry in environment["resumed"]] == [["dbbd", "resume"]]
    assert len(Manifest.load(result.run / "splits.json").samples) == 40
    assert result.best == load_checkpoint(result.checkpoint)["state"]["history"][result.best_epoch - 1]["val"]


def test_the_result_has_the_best_values_of_any_epoch(tiny_config: Make) -> None:
    result = train(tiny_config(training__epochs=3, checkpoint__metric="f1"))
    vals = {row["epoch"]: row["val"] for row in load_checkpoint(result.checkpoint)["state"]["history"]}
    assert (result.metric, set(result.best)) == ("f1", {"loss", "accuracy", "f1"})
    assert result.best == vals[result.best_epoch]
    assert result.best["f1"] == result.best_values["f1"].value == max(val["f1"] for val in vals.values())
    for name, best in (("loss", min), ("accuracy", max)):
        found = result.best_values[name]
        assert found.value == vals[found.epoch][name] == best(val[name] for val in vals.values())


def test_the_metric_that_decides_can_change_at_a_resume(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=2)).run
    before = load_checkpoint(run / "ckpt.pth")["state"]
    lines = Lines()
    by_accuracy = Override("checkpoint.metric", "accuracy", "--set")
    result = resume(run, overrides=[by_accuracy, *epochs(3)], progress=lines)
    assert any("the one with the highest validation accuracy, not loss" in line for line in lines.said)
    after = load_checkpoint(run / "ckpt.pth")
    accuracies = [row["val"]["accuracy"] for row in after["state"]["history"]]
    kept = [before["best_epoch"], *([2] if accuracies[1] > accuracies[before["best_epoch"] - 1] else []), 3]
    assert after["state"]["best_value"] == -max(accuracies[epoch - 1] for epoch in kept)
    assert result.metric == after["config"]["checkpoint"]["metric"] == "accuracy"
    best = load_checkpoint(run / "best_model.pth")
    assert len(best["state"]["history"]) == result.best_epoch
    assert load_config(str(run / "config.yaml")).checkpoint.metric == "accuracy"


def test_a_run_of_a_version_without_the_metric_continues_by_loss_alone(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=2)).run
    for path in (run / "ckpt.pth", run / "best_model.pth"):
        state = load_checkpoint(path)
        del state["config"]["checkpoint"]["metric"]
        for row in state["state"]["history"]:
            del row["val"]["f1"]
        path.unlink()
        write_sealed(state, path)
    with pytest.raises(ConfigError) as caught:
        resume(run, overrides=[Override("checkpoint.metric", "f1", "--set"), *epochs(3)])
    assert caught.value.message == "checkpoint.metric: f1 is not among the metrics of the epochs so far"
    assert "keep loss" in caught.value.hint
    assert validate(run).logged is not None
    result = resume(run, overrides=epochs(3))
    assert (result.epochs, result.metric) == (3, "loss")
    assert "f1" in load_checkpoint(run / "ckpt.pth")["state"]["history"][-1]["val"]


def test_a_new_run_never_writes_into_an_old_folder(tiny_config: Make) -> None:
    config = tiny_config(training__epochs=1)
    assert len({train(config).run for _ in range(3)}) == 3


def test_resuming_a_finished_run_does_nothing(tiny_config: Make) -> None:
    first = train(tiny_config(training__epochs=1, run__plots=True))
    assert not first.finished_before
    changing = {"environment.json", "run.log"}  # they know of every command
    before = {path.name: path.read_bytes() for path in first.run.iterdir() if path.name not in changing}
    told = Lines()
    again = resume(first.run, progress=told)
    assert (again.epochs, again.best, again.plots, again.finished_before) == (1, first.best, first.plots, True)
    assert {path.name: path.read_bytes() for path in first.run.iterdir() if path.name not in changing} == before
    assert (told.said, told.warned, told.headers) == ([], [], [])
    (first.run / "training_history.png").unlink()  # it was killed before it had drawn the figure
    assert resume(first.run).plots == first.plots
    assert (first.run / "training_history.png").is_file()


def test_a_resume_continues_with_the_batch_after_the_last(tiny_config: Make) -> None:
    for phase, after, said in (
        ("train", 2, "Continuing with epoch 1 of 2, batch 3 of 4, from ckpt.pth"),
        ("validate", 1, "Continuing with the validation of epoch 1 of 2, from ckpt.pth"),
    ):
        with pytest.raises(StoppedError) as caught:
            train(tiny_config(run__name=phase), progress=Presses(phase, after))
        steps = 4 if phase == "validate" else after
        assert caught.value.message == f"Stopped after step {steps} of epoch 1; everything is saved."
        (run,) = Path(tiny_config().run.runs_dir).glob(f"*-{phase}")
        told = Lines()
        resume(run, progress=told)
        assert told.said[0] == said
        assert told.headers == ["Run"]


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
    lines = Lines()
    result = resume(copy, progress=lines)
    assert "is damaged" in lines.warned[0]
    assert "ckpt.previous.pth" in lines.warned[0]
    assert_same_run(whole.run, result.run)
    for path in copy.glob("*.pth"):
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError) as caught:
        resume(copy)
    assert len(caught.value.details) == 3


@pytest.mark.parametrize("make", [Path.mkdir, getattr(os, "mkfifo", None)])
def test_what_is_no_file_in_the_place_of_the_newest_is_passed_over_and_kept(
    make: Callable[[Path], None] | None, tiny_config: Make
) -> None:
    """Opening a pipe would wait for ever, and a folder cannot be replaced by a file."""
    if make is None:
        pytest.skip("there are no named pipes here")
    run = train(tiny_config(training__epochs=2)).run
    (run / "ckpt.pth").unlink()
    make(run / "ckpt.pth")
    lines = Lines()
    result = resume(run, overrides=[Override("training.epochs", 3, "--epochs")], progress=lines)
    assert result.epochs == 3
    assert "is not a file. Using ckpt.previous.pth instead" in lines.warned[0]
    assert not (run / "ckpt.damaged.pth").is_file()
    assert os.path.lexists(run / "ckpt.damaged.pth")
    load_checkpoint(run / "ckpt.pth")


@pytest.mark.parametrize("name", ["best_model.pth", "ckpt.previous.pth", "ckpt.previous7.pth"])
@pytest.mark.parametrize("make", [Path.mkdir, getattr(os, "mkfifo", None)])
def test_what_is_no_file_beside_a_good_checkpoint_makes_no_save_fail(
    make: Callable[[Path], None] | None, name: str, tiny_config: Make
) -> None:
    if make is None:
        pytest.skip("there are no named pipes here")
    run = train(tiny_config(training__epochs=2)).run
    (run / name).unlink(missing_ok=True)
    make(run / name)
    lines = Lines()
    result = resume(run, overrides=[Override("training.epochs", 4, "--epochs")], progress=lines)
    assert result.epochs == 4
    stem = name.removesuffix(".pth")
    assert any(f"The damaged {name} was renamed to {stem}.damaged.pth" in line for line in lines.said)
    assert os.path.lexists(run / f"{stem}.damaged.pth")
    assert not (run / f"{stem}.damaged.pth").is_file()
    load_checkpoint(run / "ckpt.previous.pth")


def test_an_edited_configuration_and_a_checkpoint_of_another_run_are_told_of(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    written = (run / "config.yaml").read_text()
    rate = load_checkpoint(run / "ckpt.pth")["config"]["training"]["learning_rate"]
    (run / "config.yaml").write_text(written.replace(f"learning_rate: {rate}", "learning_rate: 0.25"))
    lines = Lines()
    resume(run, overrides=epochs(2), progress=lines)
    assert lines.warned == [
        "config.yaml differs from the configuration in ckpt.pth, which is used: training.learning_rate is 0.25 there "
        f"and {rate} here. Change settings with --set"
    ]
    lines = Lines()
    resume(run, overrides=[*epochs(3), Override("training.learning_rate", 0.1, "--set")], progress=lines)
    assert lines.warned == []
    for damaged in (b"\0", b"task: [", b""):
        (run / "config.yaml").write_bytes(damaged)
        resume(run, overrides=epochs(3), progress=lines)
        assert lines.warned == []
    assert load_config(str(run / "config.yaml")).training.epochs == 3


def test_files_of_holes_in_a_run_folder_fill_no_memory(tiny_config: Make, picture_folder: Callable[..., Path]) -> None:
    own = {"data__source": "folder", "data__path": str(picture_folder(("cat", "dog"), count=20))}
    whole, run = (train(tiny_config(training__epochs=number, **own)).run for number in (2, 1))
    splits = (run / "splits.json").read_bytes()

    def refused(reason: str) -> None:
        with pytest.raises(CheckpointError, match=reason):
            resume(run, overrides=epochs(2))

    for name in ("environment.json", "history.jsonl", "splits.json"):
        with (run / name).open("ab") as file:
            file.truncate(600_000_000)
    tracemalloc.start()
    try:
        refused(r"splits.json is damaged: it has 600,000,000 bytes \(limit 536,870,912\)")
        (run / "splits.json").write_bytes(bytes(5000))
        refused("splits.json is damaged: not a text file")
        (run / "splits.json").write_bytes(splits)
        resume(run, overrides=epochs(2))
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert (run / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()
    assert (run / "environment.json").stat().st_size < 100_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("name", ["environment.json", "splits.json", "run.owner"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(name: str, tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    more = [Override("training.epochs", 2, "--epochs")]
    assert resume(run / "ckpt.pth", overrides=more).epochs == 2
    assert not (run / name).exists() or (run / name).is_file()


def test_the_best_model_of_a_branch_is_there_or_starts_anew(tiny_config: Make) -> None:
    source = train(tiny_config(**{"training.epochs": 3, "training.learning_rate": 1e-4, "training.min_lr": 0.0}))
    bests = [row["best"] for row in load_checkpoint(source.checkpoint)["state"]["history"]]
    assert bests[-1]  # so that best_model.pth holds an epoch that the branch does not have
    worse = [*epochs(3), Override("training.learning_rate", 0.5, "--set")]
    branch = resume(source.run / "ckpt.previous.pth", overrides=worse)
    assert branch.best_model is not None
    best = load_checkpoint(branch.best_model)["state"]
    assert len(best["history"]) == branch.best_epoch
    assert best["history"][-1]["val"] == branch.best
    assert (branch.run / "SYNTHETIC_DATA.txt").exists()


WRONG_CONTENT: list[tuple[str, object]] = [
    ("state", []),
    ("state", {"epoch": 1}),
    ("state.epoch", "1"),
    ("state.batch", -5),
    ("state.history", 3),
    ("state.history", [1]),
    ("state.best_epoch", 99),
    ("state.seconds", "x"),
    ("module", {1: torch.zeros(1)}),
    ("module", 3),
    ("optimizer", 3),
    ("optimizer", {}),
    ("random", {"numpy": []}),
    ("config", 3),
    ("config", {}),
    ("config.training.epochs", "many"),
    ("format", torch.tensor([1, 2])),
]


@pytest.mark.parametrize(("key", "value"), WRONG_CONTENT, ids=[f"{k}={str(v)[:12]}" for k, v in WRONG_CONTENT])
def test_wrong_content_of_a_checkpoint_is_a_checkpoint_error(
    tiny_config: Make, tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    run = train(tiny_config(training__epochs=1)).run
    checkpoint = load_checkpoint(run / "ckpt.pth")
    *sections, last = key.split(".")
    place = checkpoint
    for section in sections:
        place = place[section]
    place[last] = value
    write_sealed(checkpoint, run / "wrong.pth")
    for use in (lambda path: resume(path, overrides=epochs(2)), validate):
        if use is validate and key in ("optimizer", "random"):
            continue  # validate needs neither
        with pytest.raises(CheckpointError):
            use(run / "wrong.pth")


def test_fewer_epochs_than_are_done_are_refused(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=2)).run
    with pytest.raises(ConfigError, match="less than the 2 epochs"):
        resume(run, overrides=epochs(1))
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["epochs"] == 2


def test_mistakes_are_told_before_the_data_is_touched(tiny_config: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for changes in (
        {"run.name": "a/b"},
        {"run.runs_dir": str(tmp_path / "file" / "runs")},
        {"run.device": "cuda:77"},
        {"run.precision": "fp16"},
        {"model.weights": str(tmp_path / "missing.pth")},
        {"data.source": "folder", "data.path": "~nosuchuser/x"},
    ):
        for service in (train, forecast):
            with pytest.raises(DbbdError) as caught:
                service(tiny_config(**changes), progress=Untouched())
            assert not isinstance(caught.value, DataError), changes


class Untouched(Silent):
    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        pytest.fail(f"{title} began")
        yield


def test_a_batch_of_one_image_and_a_batch_too_large_are_explained(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="a batch of one image"):
        train(tiny_config(model__name="resnet18", training__batch_size=27))

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")

    monkeypatch.setattr("dbbd_cli.model.images.classifier.Classifier.forward", full)
    with pytest.raises(ConfigError, match="out of memory") as caught:
        train(tiny_config())
    assert "batch_size" in caught.value.hint


def test_a_cache_that_is_removed_while_a_run_trains_does_no_harm(tiny_config: Make) -> None:
    class Removes(Silent):
        @contextmanager
        def phase(
            self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
        ) -> Iterator[Phase]:
            if title.endswith("train"):
                for file in cache_folder(None).glob("*.u8"):
                    file.unlink()
            with super().phase(title, total) as phase:
                yield phase

    assert train(tiny_config(seed=11), progress=Removes()).epochs == 2


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.headers: list[str] = []

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        self.headers.append(title)

    def line(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def test_a_cache_folder_that_only_the_checkpoint_names_is_not_written_to(tiny_config: Make, tmp_path: Path) -> None:
    result = train(tiny_config(**{"training.epochs": 1}))
    folder = tmp_path / "somebody's"
    folder.mkdir()
    (folder / "images-of-mine.u8").write_bytes(b"x")
    state = load_checkpoint(result.checkpoint)
    state["config"]["data"]["cache_dir"] = str(folder)
    save_checkpoint({key: value for key, value in state.items() if key != "format"}, result.run, best=True, keep=1)
    lines = Lines()
    resume(result.run, overrides=epochs(2), progress=lines)
    validate(result.run)
    assert [path.name for path in folder.iterdir()] == ["images-of-mine.u8"]
    assert any("--set data.cache_dir=DIR" in text for text in lines.said)


def test_a_cache_folder_of_this_machine_is_used_again(tiny_config: Make, tmp_path: Path) -> None:
    folder = tmp_path / "my cache"
    result = train(tiny_config(**{"training.epochs": 1, "data.cache_dir": str(folder)}))
    for cached in folder.glob("images-*.u8"):
        cached.unlink()
    lines = Lines()
    resume(result.run, overrides=epochs(2), progress=lines)
    assert list(folder.glob("images-*.u8"))
    assert not any("cache" in text for text in lines.said)


def test_links_in_a_run_folder_are_not_followed(tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config(training__epochs=1)).run
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("run.log", "ckpt.pth.tmp", "config.yaml.tmp"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(victim)
    with pytest.raises(DiskError, match="link"):
        resume(run, overrides=epochs(2))
    (run / "run.log").unlink()
    resume(run, overrides=epochs(2))
    assert victim.read_text() == "precious"


def test_what_cannot_be_resumed_is_told(tiny_config: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        resume(tmp_path / "no" / "such" / "run")
    with pytest.raises(CheckpointError, match="is not in a run folder"):
        resume(tmp_path)
    run = train(tiny_config(training__epochs=1)).run
    checkpoint = load_checkpoint(run / "ckpt.pth")
    checkpoint["module"].pop("network.fc1.weight")
    (run / "ckpt.pth").unlink()
    write_sealed(checkpoint, run / "ckpt.pth")
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        resume(run / "ckpt.pth")
    for name in ("splits.json", "config.yaml"):
        (run / name).unlink()
    with pytest.raises(CheckpointError, match=r"there is no splits\.json"):
        resume(run)


def test_a_run_folder_is_used_by_one_process_at_a_time(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    with locked(run), pytest.raises(InUseError, match="in use by process"):
        resume(run)
    resume(run)


@pytest.mark.parametrize(
    "name", ["../up", "/root", "a/b", ".hidden", "a\nb", "\x1b[31m", "", "con ", "x" * 101, "x.1-00000000-00000000.tmp"]
)
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
    same_values = ["seed=42", "model.name=qr_cnn", "model={name: qr_cnn}", f"run.name={tiny_config().run.name}"]
    resume(run, overrides=[parse_override(text) for text in same_values])  # the same value is no change


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
    save_checkpoint({k: v for k, v in inside.items() if k != "format"}, often.run, best=False, keep=2)
    resume(often.run)
    assert_same_run(whole.run, often.run)


def test_a_sample_that_cannot_be_read_in_the_middle_of_a_run_loses_nothing(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny_config(run__runs_dir=str(tmp_path / "whole")))
    make, left = ImageDataset.__getitems__, [4]  # the first batch is made twice: for the proof, and to be trained on

    def fail_later(self: ImageDataset, keys: list[Key]) -> ImageBatch:
        left[0] -= 1
        if left[0] < 0:
            raise DataError("cat/3.png cannot be read", hint="look at it")
        return make(self, keys)

    monkeypatch.setattr(ImageDataset, "__getitems__", fail_later)
    with pytest.raises(DataError) as caught:
        train(tiny_config())
    assert "; then continue with: dbbd resume" in caught.value.hint
    monkeypatch.undo()
    (run,) = (tmp_path / "runs").iterdir()
    assert load_checkpoint(run / "ckpt.pth")["state"]["step"] == 3
    resume(run)
    assert_same_run(whole.run, run)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state["optimizer"]["param_groups"][0].update(lr="high"),
        lambda state: state["optimizer"]["param_groups"][0].pop("lr"),
        lambda state: state["learning_rate"].update(best="low"),
    ],
)
def test_a_strangers_optimizer_is_refused(spoil: Callable[[Any], object], tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    state = load_checkpoint(run / "ckpt.pth")
    spoil(state)
    (run / "ckpt.pth").unlink()
    write_sealed(state, run / "ckpt.pth")
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        resume(run, overrides=epochs(2))


def test_text_in_the_settings_of_an_optimizer_has_no_effect(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    state = load_checkpoint(run / "ckpt.pth")
    state["optimizer"]["param_groups"][0].update(betas="many", eps="small", amsgrad="yes")
    (run / "ckpt.pth").unlink()
    write_sealed(state, run / "ckpt.pth")
    assert resume(run, overrides=epochs(2)).epochs == 2
