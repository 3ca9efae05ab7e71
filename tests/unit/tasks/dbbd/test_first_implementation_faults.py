"""The faults of the first implementation stay fixed: each test reproduces one."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import to_plain
from dbbd_cli.core.errors import ConfigError, DataError, ExitCode, NotFiniteError, StoppedError
from dbbd_cli.core.progress import Progress, Silent
from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
from dbbd_cli.data.scenes.trees.builder import build_tree
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.engine.inference import run_split
from dbbd_cli.engine.runtime import choose_runtime, random_state, seed_everything
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.resume import resume
from dbbd_cli.services.smoke import same
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload
from unit.tasks.dbbd.resuming import StopsBefore

Make = Callable[..., DbbdConfig]
CPU = choose_runtime("cpu", "fp32")


def make_task(config: DbbdConfig) -> DbbdWorkload:
    prepared, manifest = prepare_run(config, Silent())
    assert isinstance(prepared, DbbdConfig)
    seed_everything(prepared.seed)
    return DbbdWorkload(
        prepared, manifest, splits=("train", "val"), pretrained=False, pin_memory=False, progress=Silent()
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    module: dict[str, torch.Tensor] = load_checkpoint(run / "ckpt.pth")["module"]
    return module


def history(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_checkpoint(run / "ckpt.pth")["state"]["history"]
    return rows


def test_normals_rotate_with_the_coordinates_and_differ_between_views(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config())
    raw_batch = next(task.loaders["train"].batches(epoch=1))
    coord1, feat1, coord2, feat2, _ = task.to_device(raw_batch, CPU.device, train=True)
    ends = np.cumsum([0, *raw_batch.num_points.tolist()])
    for coord, feat in ((coord1, feat1), (coord2, feat2)):
        for start, end in itertools.pairwise(ends):
            before, after = raw_batch.coord[start:end].double().numpy(), coord[start:end].double().numpy()
            # The matrix that maps the coordinates: a rotation times a scale.
            matrix = np.linalg.lstsq(before, after, rcond=None)[0].T
            scale = np.cbrt(np.linalg.det(matrix))
            turned = raw_batch.normal[start:end].double().numpy() @ (matrix / scale).T
            assert np.abs(turned - feat[start:end].numpy()).max() < 1e-4
            assert abs(matrix[0, 1]) > 1e-3  # it was rotated at all
    assert (feat1 - feat2).abs().max() > 0.1


def test_the_validation_loss_is_reproducible(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config())
    found = []
    for pollution in range(3):
        torch.manual_seed(pollution)
        np.random.seed(pollution)
        list(task.loaders["train"].batches(epoch=pollution + 1))
        with Silent().phase("validate", 1) as bar:
            sums = run_split(task, task.loaders["val"], CPU, bar)
        found.append(sums.plain())
    assert found[0] == found[1] == found[2]
    assert sum(len(batch.coord) for batch in task.loaders["val"].batches(epoch=0)) > 64  # points are indeed sampled


def test_validation_does_not_consume_the_random_stream_of_training(tiny_point_config: Make) -> None:
    task = make_task(tiny_point_config())
    before = random_state()
    with Silent().phase("validate", 1) as bar:
        run_split(task, task.loaders["val"], CPU, bar)
    assert same(random_state(), before, exact=True)

    runs = []
    for val_scenes in (1, 3):
        shares = {"data.split.train": 0.5, "data.split.val": 0.375, "data.split.test": 0.125}
        config = tiny_point_config(**shares, **{"data.max_val_scenes": val_scenes, "training.scheduler": "none"})
        runs.append(train(config).run)
    assert same(weights(runs[0]), weights(runs[1]), exact=True)
    assert history(runs[0])[-1]["val"] != history(runs[1])[-1]["val"]


def test_two_runs_are_equal_bit_for_bit_and_numpy_is_seeded_too(tiny_point_config: Make) -> None:
    checkpoints = []
    for pollution in (1, 2):
        torch.manual_seed(pollution)
        np.random.seed(pollution)
        random.seed(pollution)
        run = train(tiny_point_config()).run
        checkpoints.append(load_checkpoint(run / "ckpt.pth"))
    for part in ("module", "optimizer", "random"):
        assert same(checkpoints[0][part], checkpoints[1][part], exact=True), part
    other = load_checkpoint(train(tiny_point_config(seed=43)).run / "ckpt.pth")
    for part in ("module", "random"):
        assert not same(checkpoints[0][part], other[part], exact=True), part
    drawn = []
    for pollution in (1, 2):
        np.random.seed(pollution)
        seed_everything(5)
        drawn.append(np.random.random())
    assert drawn[0] == drawn[1]


def test_resuming_neither_repeats_an_epoch_nor_shifts_the_schedule(tiny_point_config: Make) -> None:
    settings = {"training.epochs": 4, "training.scheduler": "cosine"}
    whole = train(tiny_point_config(**settings)).run
    progress: Progress = StopsBefore(3)
    with pytest.raises(StoppedError):
        train(tiny_point_config(**settings, run__name="stopped"), progress=progress)
    (stopped,) = whole.parent.glob("*-stopped")
    resume(stopped)
    rows = [json.loads(line) for line in (stopped / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "step"] == list(range(1, 13))
    rates = [row["learning_rate"] for row in history(stopped)]
    assert rates == [row["learning_rate"] for row in history(whole)]
    assert len(set(rates)) == 4
    assert same(weights(stopped), weights(whole), exact=True)


def test_epochs_on_the_command_line_change_the_length_of_the_schedule(tiny_point_config: Make) -> None:
    for epochs in (2, 3):
        config = config_from_mapping(
            to_plain(tiny_point_config(training__epochs=50)),
            [Override("training.epochs", epochs, "--epochs")],
            origin="test",
        )
        rates = [row["learning_rate"] for row in history(train(config).run)]
        expected = [1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
        assert rates == pytest.approx(expected)


def cycle(tree: dict[str, Any]) -> None:
    tree["children"][0]["children"] = [tree]


def own_child(tree: dict[str, Any]) -> None:
    tree["children"][0]["children"] = [tree["children"][0]]


def twice(tree: dict[str, Any]) -> None:
    tree["children"][1] = tree["children"][0]


def negative(tree: dict[str, Any]) -> None:
    tree["children"][0]["indices"][3] = -1


def out_of_range(tree: dict[str, Any]) -> None:
    tree["children"][0]["indices"][3] = 1000


def negative_center(tree: dict[str, Any]) -> None:
    tree["children"][0]["center_idx"] = -5


def center_out_of_range(tree: dict[str, Any]) -> None:
    tree["center_idx"] = 1000


def point_in_no_leaf(tree: dict[str, Any]) -> None:
    tree["children"][0]["indices"] = tree["children"][0]["indices"][:-1]


def region_in_no_leaf(tree: dict[str, Any]) -> None:
    del tree["children"][2]


def point_in_no_region(tree: dict[str, Any]) -> None:
    tree["indices"] = tree["indices"][tree["indices"] != 5]
    if tree["center_idx"] == 5:
        tree["center_idx"] = int(tree["indices"][0])
    for child in tree["children"]:
        point_in_no_region(child)


def point_in_two_leaves(tree: dict[str, Any]) -> None:
    first, second = tree["children"][:2]
    second["indices"][0] = first["indices"][0]


INVALID_TREES = {
    cycle: "its children contain",
    own_child: "has level 1, not 2",
    twice: "its children contain",
    negative: "exactly once",
    out_of_range: "exactly once",
    negative_center: "center at point -5",
    center_out_of_range: "center at point 1000",
    point_in_no_leaf: "its children contain 999",
    region_in_no_leaf: "its children contain",
    point_in_no_region: "root contains 999 points, but the scene has 1,000",
    point_in_two_leaves: "exactly once",
}


@pytest.mark.parametrize("spoil", INVALID_TREES, ids=lambda spoil: spoil.__name__)
def test_invalid_trees_are_refused_before_training(
    tiny_point_config: Make,
    scene_folder: Callable[..., Path],
    tmp_path: Path,
    spoil: Callable[[dict[str, Any]], None],
) -> None:
    root = scene_folder({"train": 2, "val": 1}, trees=True)
    path = root / "train" / "scene0001_00.pkl"
    content = pickle.loads(path.read_bytes())
    content["hierarchy"]["children"][0].pop("children")
    content["hierarchy"]["children"][0]["children"] = []
    spoil(content["hierarchy"])
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=INVALID_TREES[spoil]) as caught:
        train(tiny_point_config(data__path=str(root)))
    assert "scene0001_00.pkl" in caught.value.message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_coordinate_is_refused_before_training(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, value: float
) -> None:
    root = scene_folder({"train": 2, "val": 1})
    path = root / "val" / "scene0000_00.pkl"
    content = pickle.loads(path.read_bytes())
    content["coords"][17, 1] = value
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"scene0000_00\.pkl.*not finite at point 17") as caught:
        train(tiny_point_config(data__path=str(root)))
    assert caught.value.exit_code == ExitCode.DATA
    assert not (tmp_path / "runs").exists()


def test_invalid_normals_are_replaced_by_estimates(tiny_point_config: Make, scene_folder: Callable[..., Path]) -> None:
    root = scene_folder({"train": 2, "val": 1})
    for path, value in zip(sorted(root.rglob("*.pkl")), (math.nan, math.inf, 0.0), strict=True):
        content = pickle.loads(path.read_bytes())
        content["normals"][:20] = value
        path.write_bytes(pickle.dumps(content))
    result = train(tiny_point_config(data__path=str(root), training__epochs=1))
    assert math.isfinite(load_checkpoint(result.run / "ckpt.pth")["state"]["history"][-1]["val"]["loss"])


def test_a_non_finite_loss_stops_before_the_update_and_names_the_scenes(
    tiny_point_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its cause: here one scene gets a NaN on its way to the device."""
    bad_scene = 4
    to_device = DbbdWorkload.to_device

    def spoiling(self: DbbdWorkload, batch: Any, device: torch.device, *, train: bool) -> Any:
        coord1, feat1, *others = to_device(self, batch, device, train=train)
        if train and int(batch.epoch) == 2 and bad_scene in batch.samples.tolist():
            coord1[0, 0] = math.nan
        return (coord1, feat1, *others)

    monkeypatch.setattr(DbbdWorkload, "to_device", spoiling)
    config = tiny_point_config(training__epochs=3)
    with pytest.raises(NotFiniteError, match="were not updated") as caught:
        train(config)
    assert caught.value.exit_code == 5
    monkeypatch.undo()
    task = make_task(config)
    (batch,) = [batch for batch in task.loaders["train"].batches(epoch=2) if bad_scene in batch.samples.tolist()]
    assert caught.value.details[1:] == task.names(batch, "train")
    assert task.manifest.of("train")[bad_scene].key in caught.value.details
    (run,) = (tmp_path / "runs").iterdir()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(run).values())
    assert [row["epoch"] for row in history(run)] == [1]
    assert resume(run).epochs == 3  # continues from the last good state


def test_points_in_no_leaf_are_refused_even_if_the_tree_is_cut_above(
    tiny_point_config: Make, scene_folder: Callable[..., Path]
) -> None:
    """The file is damaged, even if the damage is not used."""
    root = scene_folder({"train": 2, "val": 1}, trees=True)
    path = root / "train" / "scene0000_00.pkl"
    content = pickle.loads(path.read_bytes())
    inner = next(child for child in content["hierarchy"]["children"] if child["children"])
    del inner["children"][-1]
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="its children contain"):
        train(tiny_point_config(data__path=str(root), data__max_depth=1))


class Payload:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["alone", "inside"])
def test_code_in_a_pickle_is_not_run(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, place: str
) -> None:
    root, proof = scene_folder({"train": 2, "val": 1}), tmp_path / "ran"
    payload = Payload(f"touch {proof}")
    path = root / "train" / "scene0000_00.pkl"
    content = payload if place == "alone" else {**pickle.loads(path.read_bytes()), "extra": payload}
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"scene0000_00\.pkl was not loaded, and nothing in it was run"):
        train(tiny_point_config(data__path=str(root)))
    assert not proof.exists()
    assert not (tmp_path / "runs").exists()
    pickle.loads(path.read_bytes())  # a plain unpickler runs it
    assert proof.exists()


def test_early_stopping_works(tiny_point_config: Make) -> None:
    settings = {"training.early_stopping_patience": 2, "training.early_stopping_min_delta": 1e6}
    result = train(tiny_point_config(**settings, **{"training.epochs": 9}))
    assert result.stopped_early
    assert result.epochs == 3  # the first epoch always improves
    result = train(tiny_point_config(training__epochs=4))
    assert not result.stopped_early
    assert result.epochs == 4


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_unavailable_cuda_is_an_error_instead_of_the_cpu(
    tiny_point_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"(?i)cuda"):
        train(tiny_point_config(run__device=device))
    assert not (tmp_path / "runs").exists()
    run = train(tiny_point_config(training__epochs=1)).run
    with pytest.raises(ConfigError, match=r"(?i)cuda"):
        validate(run, overrides=[Override("run.device", device, "--device")])


def test_built_trees_hold_every_point_in_a_leaf() -> None:
    for index in range(3):
        room = generate_room(11, index, 1000)
        tree = build_tree(room.coord, max_depth=4, min_region_points=4)
        held = np.concatenate([tree.region(row) for row in np.flatnonzero(tree.is_leaf)])
        assert sorted(held.tolist()) == list(range(1000))
