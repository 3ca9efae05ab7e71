"""A resumed run ends like an uninterrupted one, from any usable checkpoint; anything else is refused."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dbbd_cli.config.load import Override, parse_override
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError, DiskError, StoppedError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.images.dataset import ImageBatch, ImageDataset
from dbbd_cli.data.loader import Key
from dbbd_cli.engine.checkpoint.files import NEWEST, load_checkpoint, save_checkpoint
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.services.resume import resume
from dbbd_cli.services.resume_checks import check_training_settings
from dbbd_cli.services.session import OpenedRun, open_run
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import load_config
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig
from unit.services.shown_runs import PressCtrlC, Shown, assert_same_run, epochs

Make = Callable[..., ImageClassificationConfig]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_epochs_extended_to_four_equal_four_uninterrupted_ones(tiny_config: Make, workers: int) -> None:
    settings = {"data.num_workers": workers, "training.warmup_epochs": 1.0, "training.label_smoothing": 0.1}
    whole = train(tiny_config(**settings, **{"training.epochs": 4}))
    half = train(tiny_config(**settings, **{"training.epochs": 2}))
    resumed = resume(half.run, overrides=epochs(4))
    assert resumed.run == half.run
    assert resumed.epochs == 4
    assert_same_run(whole.run, half.run)


@pytest.mark.parametrize(("phase", "after"), [("train", 1), ("train", 6), ("train", 4), ("validate", 1)])
def test_stopped_by_ctrl_c_and_resumed_it_equals_the_uninterrupted_run(
    tiny_config: Make, phase: str, after: int
) -> None:
    whole = train(tiny_config())
    with pytest.raises(StoppedError) as caught:
        train(tiny_config(run__name="stopped"), progress=PressCtrlC(phase, after))
    assert caught.value.exit_code == 130
    assert "dbbd resume" in caught.value.hint
    (stopped,) = whole.run.parent.glob("*-stopped")
    assert resume(stopped).epochs == 2
    assert_same_run(whole.run, stopped)


def test_resuming_a_finished_run_does_nothing(tiny_config: Make) -> None:
    first = train(tiny_config(training__epochs=1, run__plots=True))
    assert not first.finished_before
    changing = {"environment.json", "run.log"}  # they know of every command
    before = {path.name: path.read_bytes() for path in first.run.iterdir() if path.name not in changing}
    shown = Shown()
    again = resume(first.run, progress=shown)
    assert (again.epochs, again.best, again.plots, again.finished_before) == (1, first.best, first.plots, True)
    assert {path.name: path.read_bytes() for path in first.run.iterdir() if path.name not in changing} == before
    assert (shown.lines, shown.warnings, shown.headers) == ([], [], [])
    (first.run / "training_history.png").unlink()  # it was killed before it had drawn the figure
    assert resume(first.run).plots == first.plots
    assert (first.run / "training_history.png").is_file()


def test_a_run_that_was_killed_after_its_last_checkpoint_gets_the_end_of_its_log_and_a_new_figure(
    tiny_config: Make,
) -> None:
    run = train(tiny_config(training__epochs=1, run__plots=True)).run
    log, figure = run / "run.log", run / "training_history.png"
    # What it leaves if it was extended: the end and the figure of its first epochs.
    log.write_text(log.read_text().replace("done after", "done after 1,000"))
    figure.write_bytes(b"of its first epochs")
    resume(run)
    assert log.read_text().count("done after") == 2
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_resume_continues_with_the_batch_after_the_last(tiny_config: Make) -> None:
    for phase, after, said in (
        ("train", 2, "Continuing with epoch 1 of 2, batch 3 of 4, from ckpt.pth"),
        ("validate", 1, "Continuing with the validation of epoch 1 of 2, from ckpt.pth"),
    ):
        with pytest.raises(StoppedError) as caught:
            train(tiny_config(run__name=phase), progress=PressCtrlC(phase, after))
        steps = 4 if phase == "validate" else after
        assert caught.value.message == f"Stopped after step {steps} of epoch 1; everything is saved."
        (run,) = Path(tiny_config().run.runs_dir).glob(f"*-{phase}")
        shown = Shown()
        resume(run, progress=shown)
        assert shown.lines[0] == said
        assert shown.headers == ["Run"]


def test_a_resume_with_more_epochs_continues_after_early_stopping(tiny_config: Make) -> None:
    settings = {"training.early_stopping_patience": 1, "training.early_stopping_min_delta": 1e6}
    run = train(tiny_config(**settings, **{"training.epochs": 5})).run
    assert len(load_checkpoint(run / "ckpt.pth")["state"]["history"]) == 2
    assert resume(run, overrides=epochs(5)).epochs == 3


def test_an_older_checkpoint_continues_in_a_new_folder(tiny_config: Make) -> None:
    whole = train(tiny_config(training__epochs=3))
    before = {path.name: path.read_bytes() for path in whole.run.iterdir() if path.is_file()}
    result = resume(whole.run / "ckpt.previous.pth")
    assert result.run != whole.run
    assert_same_run(whole.run, result.run)
    assert {path.name: path.read_bytes() for path in whole.run.iterdir() if path.is_file()} == before


def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(tiny_config: Make) -> None:
    whole = train(tiny_config(training__epochs=3))
    copy = train(tiny_config(training__epochs=3)).run
    (copy / "ckpt.pth").write_bytes(b"\0" + (copy / "ckpt.pth").read_bytes()[1:])
    shown = Shown()
    result = resume(copy, progress=shown)
    assert "is damaged" in shown.warnings[0]
    assert "ckpt.previous.pth" in shown.warnings[0]
    assert_same_run(whole.run, result.run)
    for path in copy.glob("*.pth"):
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError) as caught:
        resume(copy)
    assert len(caught.value.details) == 3


@pytest.mark.parametrize("make", [Path.mkdir, getattr(os, "mkfifo", None)])
def test_a_folder_or_pipe_in_place_of_the_newest_checkpoint_is_skipped_and_kept(
    make: Callable[[Path], None] | None, tiny_config: Make
) -> None:
    """Opening a pipe would wait for ever, and a folder cannot be replaced by a file."""
    if make is None:
        pytest.skip("there are no named pipes here")
    run = train(tiny_config(training__epochs=2)).run
    (run / "ckpt.pth").unlink()
    make(run / "ckpt.pth")
    shown = Shown()
    result = resume(run, overrides=[Override("training.epochs", 3, "--epochs")], progress=shown)
    assert result.epochs == 3
    assert "is not a file. Using ckpt.previous.pth instead" in shown.warnings[0]
    assert not (run / "ckpt.damaged.pth").is_file()
    assert os.path.lexists(run / "ckpt.damaged.pth")
    load_checkpoint(run / "ckpt.pth")


@pytest.mark.parametrize("name", ["best_model.pth", "ckpt.previous.pth", "ckpt.previous7.pth"])
@pytest.mark.parametrize("make", [Path.mkdir, getattr(os, "mkfifo", None)])
def test_a_folder_or_pipe_in_place_of_another_checkpoint_does_not_make_a_save_fail(
    make: Callable[[Path], None] | None, name: str, tiny_config: Make
) -> None:
    if make is None:
        pytest.skip("there are no named pipes here")
    run = train(tiny_config(training__epochs=2)).run
    (run / name).unlink(missing_ok=True)
    make(run / name)
    shown = Shown()
    result = resume(run, overrides=[Override("training.epochs", 4, "--epochs")], progress=shown)
    assert result.epochs == 4
    stem = name.removesuffix(".pth")
    assert any(f"The damaged {name} was renamed to {stem}.damaged.pth" in line for line in shown.lines)
    assert os.path.lexists(run / f"{stem}.damaged.pth")
    assert not (run / f"{stem}.damaged.pth").is_file()
    load_checkpoint(run / "ckpt.previous.pth")


def test_an_edited_configuration_causes_a_warning(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    written = (run / "config.yaml").read_text()
    rate = load_checkpoint(run / "ckpt.pth")["config"]["training"]["learning_rate"]
    (run / "config.yaml").write_text(written.replace(f"learning_rate: {rate}", "learning_rate: 0.25"))
    shown = Shown()
    resume(run, overrides=epochs(2), progress=shown)
    assert shown.warnings == [
        "config.yaml differs from the configuration in ckpt.pth, which is used: training.learning_rate is 0.25 there "
        f"and {rate} here. Change settings with --set"
    ]
    shown = Shown()
    resume(run, overrides=[*epochs(3), Override("training.learning_rate", 0.1, "--set")], progress=shown)
    assert shown.warnings == []
    for damaged in (b"\0", b"task: [", b""):
        (run / "config.yaml").write_bytes(damaged)
        resume(run, overrides=epochs(3), progress=shown)
        assert shown.warnings == []
    assert load_config(str(run / "config.yaml")).training.epochs == 3


def test_huge_sparse_files_in_a_run_folder_are_not_read_into_memory(
    tiny_config: Make, picture_folder: Callable[..., Path]
) -> None:
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
@pytest.mark.parametrize("name", ["environment.json", "run.owner"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(name: str, tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    more = [Override("training.epochs", 2, "--epochs")]
    assert resume(run / "ckpt.pth", overrides=more).epochs == 2
    assert not (run / name).exists() or (run / name).is_file()


def test_a_branch_has_a_best_model_of_its_own(tiny_config: Make) -> None:
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
    save_with_digest(checkpoint, run / "wrong.pth")
    for use in (lambda path: resume(path, overrides=epochs(2)), validate):
        if use is validate and key in ("optimizer", "random"):
            continue  # validate needs neither
        with pytest.raises(CheckpointError):
            use(run / "wrong.pth")


def test_fewer_epochs_than_already_trained_are_refused(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=2)).run
    with pytest.raises(ConfigError, match="less than the 2 epochs"):
        resume(run, overrides=epochs(1))
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["epochs"] == 2


def test_a_cache_folder_named_only_by_the_checkpoint_is_not_written_to(tiny_config: Make, tmp_path: Path) -> None:
    result = train(tiny_config(**{"training.epochs": 1}))
    folder = tmp_path / "somebody's"
    folder.mkdir()
    (folder / "images-of-mine.u8").write_bytes(b"x")
    state = load_checkpoint(result.checkpoint)
    state["config"]["data"]["cache_dir"] = str(folder)
    save_checkpoint({key: value for key, value in state.items() if key != "format"}, result.run, best=True, keep=1)
    shown = Shown()
    resume(result.run, overrides=epochs(2), progress=shown)
    validate(result.run)
    assert [path.name for path in folder.iterdir()] == ["images-of-mine.u8"]
    assert any("--set data.cache_dir=DIR" in text for text in shown.lines)


def test_a_cache_folder_of_this_machine_is_used_again(tiny_config: Make, tmp_path: Path) -> None:
    folder = tmp_path / "my cache"
    result = train(tiny_config(**{"training.epochs": 1, "data.cache_dir": str(folder)}))
    for cached in folder.glob("images-*.u8"):
        cached.unlink()
    shown = Shown()
    resume(result.run, overrides=epochs(2), progress=shown)
    assert list(folder.glob("images-*.u8"))
    assert not any("cache" in text for text in shown.lines)


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.image_size", 64),
        ("model.name", "resnet18"),
        ("data.split.test", 0.2),
        ("seed", 1),
        ("checkpoint.metric", "f1"),
    ],
)
def test_fixed_settings_cannot_change(tiny_config: Make, key: str, value: object) -> None:
    run = train(tiny_config(training__epochs=1)).run
    others = [Override("data.split.train", 0.65, "--set")] if key == "data.split.test" else []
    section, _, name = key.rpartition(".")
    whole = [Override(section, {name: value}, "--set")] if section and not others else []
    for overrides in ([Override(key, value, "--set"), *others], whole):
        if overrides:
            with pytest.raises(ConfigError, match="cannot change") as caught:
                resume(run, overrides=overrides)
            assert any(detail.startswith(f"{key} is ") for detail in caught.value.details)
    same_values = ["seed=42", "model.name=qr_cnn", "model={name: qr_cnn}", f"run.name={tiny_config().run.name}"]
    resume(run, overrides=[parse_override(text) for text in same_values])  # the same value is no change


def test_settings_given_to_resume_have_an_effect(tiny_config: Make) -> None:
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


def test_the_batch_size_cannot_change_within_an_epoch(tiny_config: Make) -> None:
    with pytest.raises(StoppedError):
        train(tiny_config(), progress=PressCtrlC("train", 2))
    run = next(Path(tiny_config().run.runs_dir).iterdir())
    with pytest.raises(ConfigError, match="in the middle of an epoch"):
        resume(run, overrides=[Override("training.batch_size", 4, "--set")])


def test_within_an_epoch_the_batch_size_of_all_processes_together_counts(tiny_config: Make) -> None:
    with pytest.raises(StoppedError):
        train(tiny_config(), progress=PressCtrlC("train", 2))
    run = next(Path(tiny_config().run.runs_dir).iterdir())
    size = tiny_config().training.batch_size

    def opened(*overrides: Override) -> OpenedRun:
        return open_run(run, prefer=NEWEST, overrides=overrides, progress=Silent())

    half = Override("training.batch_size", size // 2, "--set")
    same = Override("training.batch_size", size, "--set")
    for overrides, processes in (((), 1), ((), 3), ((half,), 2), ((same,), 1)):
        check_training_settings(opened(*overrides), processes)
    for setting, processes in ((half, 1), (same, 2)):
        with pytest.raises(ConfigError, match=f"cannot change: {size} samples of all processes together"):
            check_training_settings(opened(setting), processes)


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
    make, left = (
        ImageDataset.__getitems__,
        [4],
    )  # the first batch is made twice: the replay check needs it too

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
def test_an_invalid_optimizer_state_is_refused(spoil: Callable[[Any], object], tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    state = load_checkpoint(run / "ckpt.pth")
    spoil(state)
    (run / "ckpt.pth").unlink()
    save_with_digest(state, run / "ckpt.pth")
    with pytest.raises(CheckpointError, match="does not match this configuration"):
        resume(run, overrides=epochs(2))


def test_text_in_the_settings_of_an_optimizer_has_no_effect(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    state = load_checkpoint(run / "ckpt.pth")
    state["optimizer"]["param_groups"][0].update(betas="many", eps="small", amsgrad="yes")
    (run / "ckpt.pth").unlink()
    save_with_digest(state, run / "ckpt.pth")
    assert resume(run, overrides=epochs(2)).epochs == 2


def test_a_finished_older_checkpoint_is_refused_and_creates_no_folder(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    shutil.copyfile(run / "ckpt.pth", run / "finished.pth")
    resume(run, overrides=epochs(2))
    folders = set(run.parent.iterdir())
    with pytest.raises(ConfigError, match="nothing is left to train from it") as caught:
        resume(run / "finished.pth")
    assert "--epochs" in caught.value.hint
    assert set(run.parent.iterdir()) == folders
    assert resume(run / "finished.pth", overrides=epochs(2)).run != run
