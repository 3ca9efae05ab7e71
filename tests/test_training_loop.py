"""The 23 tests that the first implementation of DBBD named, on synthetic rooms."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from unit.data.scenes.trees.example_trees import is_tree

from dbbd_cli.config.load import Override, dump_config
from dbbd_cli.config.sections import TaskConfig, to_plain
from dbbd_cli.core.errors import StoppedError
from dbbd_cli.core.progress import Silent
from dbbd_cli.core.signals import StopRequest
from dbbd_cli.data.scenes.cache import prepared_scene
from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
from dbbd_cli.engine.checkpoint.files import CONTENT, load_checkpoint
from dbbd_cli.engine.inference import run_split
from dbbd_cli.engine.runtime import choose_runtime, seed_everything
from dbbd_cli.engine.state import Sums
from dbbd_cli.engine.trainer import Run, Trainer, fit
from dbbd_cli.model.output import StepOutput
from dbbd_cli.runs.log import RunLog
from dbbd_cli.services.preparation import prepare_run
from dbbd_cli.services.smoke import same
from dbbd_cli.tasks.configs import config_from_mapping, load_config
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload, make_network

Make = Callable[..., DbbdConfig]
CPU = choose_runtime("cpu", "fp32")

FULL = {
    "model.encoder_hidden_dims": [64, 128],
    "model.hidden_dim": 96,
    "model.output_dim": 96,
    "model.propagator_hidden_dim": 128,
    "model.projection_dim": 128,
    "loss.point_samples": 4096,
    "training.batch_size": 4,
    "data.num_workers": 4,
    "data.max_train_scenes": None,
    "data.max_val_scenes": None,
}
SMALL = {
    "model.encoder_hidden_dims": [32, 64],
    "model.hidden_dim": 64,
    "model.output_dim": 64,
    "model.propagator_hidden_dim": 64,
    "model.projection_dim": 64,
    "loss.point_samples": 512,
    "training.batch_size": 2,
    "data.num_workers": 0,
    "data.max_train_scenes": 4,
    "data.max_val_scenes": 2,
}
BOTH = {
    "loss.temperature": 0.1,
    "loss.region_weight": 1.0,
    "loss.point_weight": 0.5,
    "training.optimizer": "adamw",
    "training.learning_rate": 1e-3,
    "training.weight_decay": 0.01,
    "training.scheduler": "cosine",
    "training.scheduler_epochs": None,
    "training.min_lr": 1e-5,
    "seed": 42,
    "data.views.rotation_degrees": 180.0,
    "data.views.scale": 0.1,
    "data.max_depth": 4,
    "data.min_region_points": 16,
}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def settings(config: TaskConfig) -> dict[str, Any]:
    return flat(to_plain(config))


def checked(**sections: Any) -> TaskConfig:
    return config_from_mapping({"task": "dbbd", **sections}, origin="test")


def make_trainer(config: DbbdConfig) -> Trainer:
    """The trainer that `dbbd train` builds, without a run folder."""
    prepared, manifest = prepare_run(config, Silent())
    assert isinstance(prepared, DbbdConfig)
    seed_everything(prepared.seed)
    task = DbbdWorkload(
        prepared, manifest, splits=("train", "val"), pretrained=True, pin_memory=False, progress=Silent()
    )
    return Trainer(task, prepared, CPU)


def fitted(trainer: Trainer, folder: Path, stop: StopRequest | None = None) -> Trainer:
    folder.mkdir(exist_ok=True)
    with RunLog(folder, step=trainer.state.step, history=trainer.state.history, command=[]) as log:
        fit(Run(trainer, folder, log, Silent(), StopRequest() if stop is None else stop))
    return trainer


class AfterOneStep(StopRequest):
    def __bool__(self) -> bool:
        self.signal_number = signal.SIGINT
        return True


def a_batch(trainer: Trainer) -> tuple[Any, ...]:
    raw_batch = next(trainer.workload.loaders["train"].batches(epoch=1))
    return trainer.workload.to_device(raw_batch, CPU.device, train=True)


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


class TestTrainingConfig:
    def test_default_values(self) -> None:
        found = settings(checked())
        assert {key: found[key] for key in FULL | BOTH} == FULL | BOTH
        assert found["small_mode"] is False

    def test_small_mode_overrides(self) -> None:
        full, small = settings(checked()), settings(checked(small_mode=True))
        assert {key: small[key] for key in SMALL} == SMALL
        changed = {key for key in full if full[key] != small[key]}
        assert changed == {*SMALL, "small_mode", "data.max_test_scenes"}

    def test_yaml_save_load(self, tmp_path: Path) -> None:
        path = tmp_path / "saved.yaml"
        for config in (checked(), checked(small_mode=True), checked(small_mode=True, training={"batch_size": 4})):
            path.write_text(dump_config(config), encoding="utf-8")
            loaded = load_config(str(path))
            assert loaded == config
            assert settings(loaded) == settings(config)

    def test_from_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(
            "task: dbbd\nseed: 7\ndata:\n  source: folder\n  path: scans\n  features: [normals, color]\n"
            "model: {encoder_hidden_dims: [8, 16, 32], aggregation: mean}\ntraining:\n  learning_rate: 2e-4\n",
            encoding="utf-8",
        )
        found, defaults = settings(load_config(str(path))), settings(checked())
        changed = {key: value for key, value in found.items() if value != defaults[key]}
        assert changed == {
            "seed": 7,
            "data.source": "folder",
            "data.path": "scans",
            "data.features": ["normals", "color"],
            "model.encoder_hidden_dims": [8, 16, 32],
            "model.aggregation": "mean",
            "training.learning_rate": 2e-4,
        }

    def test_custom_values(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(
            "task: dbbd\ntraining: {epochs: 5, batch_size: 3}\nloss: {temperature: 0.2}\n", encoding="utf-8"
        )
        overrides = [Override("training.epochs", 9, "--epochs"), Override("data.max_val_scenes", 6, "--set")]
        found, defaults = settings(load_config(str(path), overrides)), settings(checked())
        assert {key: value for key, value in found.items() if value != defaults[key]} == {
            "training.epochs": 9,
            "training.batch_size": 3,
            "loss.temperature": 0.2,
            "data.max_val_scenes": 6,
        }

    def test_small_mode_with_custom(self, tmp_path: Path) -> None:
        for key, full in FULL.items():
            # A value that a user wrote stays, also where it is the default of full size.
            for value in (full, [5] if isinstance(full, list) else 7):
                section, name = key.split(".")
                path = tmp_path / "mine.yaml"
                path.write_text(
                    f"task: dbbd\nsmall_mode: true\n{section}: {{{name}: {json.dumps(value)}}}\n", encoding="utf-8"
                )
                in_file = load_config(str(path))
                on_command_line = config_from_mapping(
                    {"task": "dbbd", "small_mode": True}, [Override(key, value, "--set")], origin="test"
                )
                for config in (in_file, on_command_line):
                    found = settings(config)
                    assert {name: found[name] for name in SMALL} == {**SMALL, key: value}


class TestDataLoading:
    def test_dataset_loads(self, scene_folder: Callable[..., Path], tiny_point_config: Make) -> None:
        root = scene_folder({"train": 3, "val": 2}, trees=True)
        trainer = make_trainer(tiny_point_config(data__path=str(root), data__max_depth=3))
        task = trainer.workload
        assert isinstance(task, DbbdWorkload)
        assert task.manifest.counts() == {"train": 3, "val": 2, "test": 0}
        dataset = task.dataset(task.refs("train"), point_samples=None)
        assert len(dataset) == 3
        for index, ref in enumerate(dataset.refs):
            scene, room = prepared_scene(ref, dataset.settings, dataset.cache_dir), generate_room(7, index, 1000)
            assert ref.name.endswith(f"train/scene{index:04d}_00.pkl")
            assert scene.coord.shape == (1000, 3)
            assert np.ptp(scene.coord, axis=0) == pytest.approx(np.ptp(room.coord, axis=0), abs=1e-4)
            assert scene.normal == pytest.approx(room.normal, abs=1e-6)
            assert is_tree(scene.tree, 1000)
            assert scene.tree.num_levels == 4
            assert (scene.tree.num_points[scene.tree.is_leaf]).min() < 16  # the stored tree, not one built with 16

    def test_max_scenes_limit(self, scene_folder: Callable[..., Path], tiny_point_config: Make) -> None:
        root = scene_folder({"train": 4, "val": 3, "test": 2})
        limits = {"data.max_train_scenes": 2, "data.max_val_scenes": 1}
        task = make_trainer(tiny_point_config(data__path=str(root), **limits)).workload
        assert isinstance(task, DbbdWorkload)
        assert task.manifest.counts() == {"train": 2, "val": 1, "test": 2}
        assert [sample.key for sample in task.manifest.of("train")] == [
            f"train/scene000{index}_00.pkl" for index in range(2)
        ]
        assert {split: loader.num_samples for split, loader in task.loaders.items()} == {"train": 2, "val": 1}

    def test_dataloader_batching(self, tiny_point_config: Make) -> None:
        task = make_trainer(tiny_point_config(data__features=["color", "normals"])).workload
        assert isinstance(task, DbbdWorkload)
        dataset = task.dataset(task.refs("train"), point_samples=None)
        scenes = [prepared_scene(ref, dataset.settings, dataset.cache_dir) for ref in dataset.refs]
        seen: list[int] = []
        for batch in task.loaders["train"].batches(epoch=3):
            members = [scenes[index] for index in batch.samples.tolist()]
            seen += batch.samples.tolist()
            assert int(batch.epoch) == 3
            assert batch.num_points.tolist() == [1000, 1000]
            for tensor, name, dtype in (
                (batch.coord, "coord", torch.float32),
                (batch.normal, "normal", torch.float32),
                (batch.color, "color", torch.uint8),
            ):
                assert tensor.dtype == dtype
                assert np.array_equal(tensor.numpy(), np.concatenate([getattr(scene, name) for scene in members]))
            regions = batch.regions
            assert (regions.num_scenes, regions.num_points) == (2, 2000)
            assert [level.num_regions for level in regions.levels] == [
                sum(int((scene.tree.level == number).sum()) for scene in members) for number in range(3)
            ]
            assert sorted(regions.leaves.index.tolist()) == list(range(2000))
            assert regions.point.shape == (64,)
        assert sorted(seen) == list(range(6))


class TestTrainerInitialization:
    def test_trainer_creates_model(self, tiny_point_config: Make) -> None:
        module = make_trainer(tiny_point_config()).workload.module
        parts = {".".join(name.split(".")[:2]) for name, _ in module.named_parameters()}
        assert parts == {
            *(f"encoder.{part}" for part in ("raw_projection", "combine_projection", "encoder")),
            *(f"encoder.{part}" for part in ("propagator", "aggregator")),
            *(f"loss.{part}" for part in ("region_projection", "point_projection")),
        }
        assert all(parameter.requires_grad for parameter in module.parameters())

    def test_trainer_creates_optimizer(self, tiny_point_config: Make) -> None:
        trainer = make_trainer(tiny_point_config(training__learning_rate=3e-3, training__weight_decay=0.07))
        assert isinstance(trainer.optimizer, torch.optim.AdamW)
        (group,) = trainer.optimizer.param_groups
        assert (group["lr"], group["weight_decay"], group["betas"]) == (3e-3, 0.07, (0.9, 0.999))
        assert [id(p) for p in group["params"]] == [id(p) for p in trainer.workload.module.parameters()]

    def test_trainer_creates_scheduler(self, tiny_point_config: Make) -> None:
        trainer = make_trainer(tiny_point_config(training__epochs=5))
        reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=5, eta_min=1e-5)
        for epoch in range(1, 6):
            for step in range(3):
                trainer.learning_rate.before_step(3 * (epoch - 1) + step, epoch)
                assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(cosine.get_last_lr()[0], rel=1e-6)
            reference.step()
            cosine.step()


def means(output: StepOutput) -> dict[str, float]:
    sums = Sums()
    sums.add(output)
    sums.flush()
    return {name: value / output.num_samples for name, value in sums.values.items()}


class TestTrainStep:
    def test_train_step_returns_loss(self, tiny_point_config: Make) -> None:
        trainer = make_trainer(tiny_point_config())
        output = trainer.workload.module.train()(*a_batch(trainer))
        assert output.num_samples == 2
        assert output.loss.shape == ()
        assert output.loss.requires_grad
        assert bool(torch.isfinite(output.loss))
        mean = means(output)
        assert float(output.loss.detach()) == pytest.approx(mean["region_loss"] + 0.5 * mean["point_loss"], rel=1e-5)
        levels = [mean[f"loss_level_{level}"] for level in range(3)]
        assert mean["region_loss"] == pytest.approx(float(np.mean(levels)), rel=1e-5)
        assert mean["point_chance"] == pytest.approx(np.log(64), rel=1e-6)
        assert mean["chance_level_0"] == pytest.approx(np.log(2), rel=1e-6)

    def test_train_step_updates_weights(self, tiny_point_config: Make, tmp_path: Path) -> None:
        trainer = make_trainer(tiny_point_config(training__weight_decay=0.0))
        before = copies(trainer.workload.module)
        with pytest.raises(StoppedError):
            fitted(trainer, tmp_path / "run", AfterOneStep())
        assert trainer.state.step == 1
        for name, parameter in trainer.workload.module.named_parameters():
            moved = (parameter.detach() - before[name]).abs()
            assert float(moved.max()) > 1e-5, name
            assert float(moved.max()) < 1.1e-3, name  # the first step of AdamW moves no weight further than its rate
            assert parameter.grad is not None


class TestOverfitOneBatch:
    def test_overfit_single_batch(self, tiny_point_config: Make) -> None:
        wide = {f"model.{name}": 64 for name in ("hidden_dim", "output_dim", "propagator_hidden_dim", "projection_dim")}
        trainer = make_trainer(tiny_point_config(**wide, **{"model.encoder_hidden_dims": [32, 64]}))
        module, batch = trainer.workload.module.train(), a_batch(trainer)
        losses = []
        for _ in range(11):
            trainer.optimizer.zero_grad()
            output = module(*batch)
            output.loss.backward()
            trainer.optimizer.step()
            losses.append(float(output.loss.detach()))
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.75 * losses[0]
        # Lower than for a network that cannot tell regions and points apart.
        mean = means(output)
        chance = float(np.mean([mean[f"chance_level_{level}"] for level in range(3)])) + 0.5 * mean["point_chance"]
        assert losses[-1] < 0.75 * chance


class TestCheckpointing:
    def test_save_checkpoint(self, tiny_point_config: Make, tmp_path: Path) -> None:
        trainer = fitted(make_trainer(tiny_point_config()), tmp_path / "run")
        names = {path.name for path in (tmp_path / "run").glob("*.pth*")}
        assert names == {"ckpt.pth", "ckpt.previous.pth", "best_model.pth"}
        content = torch.load(tmp_path / "run" / "ckpt.pth", weights_only=True)
        assert content.keys() >= CONTENT
        assert same(content["module"], trainer.workload.module.state_dict(), exact=True)
        assert same(content["optimizer"], trainer.optimizer.state_dict(), exact=True)
        assert len(content["optimizer"]["state"]) == len(list(trainer.workload.module.parameters()))
        assert content["learning_rate"] == trainer.learning_rate.state_dict()
        assert content["state"]["epoch"] == 3
        assert content["state"]["step"] == 6
        assert content["state"]["history"] == trainer.state.history
        assert content["config"] == to_plain(trainer.config)
        assert {"torch", "numpy", "python"} <= content["random"].keys()

    def test_load_checkpoint(self, tiny_point_config: Make, tmp_path: Path) -> None:
        trained = fitted(make_trainer(tiny_point_config()), tmp_path / "run")
        other = make_trainer(tiny_point_config())
        checkpoint = load_checkpoint(tmp_path / "run" / "ckpt.pth")
        assert not same(other.workload.module.state_dict(), checkpoint["module"], exact=True)
        torch.rand(5)
        np.random.rand(5)
        other.load(checkpoint, tmp_path)
        found, saved = other.to_plain(), {key: checkpoint[key] for key in trained.to_plain()}
        assert same(found, saved, exact=True)
        assert found["state"]["history"] == trained.state.history
        assert other.state.epoch == 3

    def test_resume_training(self, tiny_point_config: Make, tmp_path: Path) -> None:
        four = {"training.epochs": 4, "training.scheduler_epochs": 4}
        whole = fitted(make_trainer(tiny_point_config(**four)), tmp_path / "whole")
        half = make_trainer(tiny_point_config(**{**four, "training.epochs": 2}))
        fitted(half, tmp_path / "half")
        resumed = make_trainer(tiny_point_config(**four))
        resumed.load(load_checkpoint(tmp_path / "half" / "ckpt.pth"), tmp_path / "half" / "ckpt.pth")
        fitted(resumed, tmp_path / "half")
        assert [row["epoch"] for row in resumed.state.history] == [1, 2, 3, 4]
        assert resumed.state.history == whole.state.history
        for part in ("module", "optimizer", "learning_rate", "random"):
            assert same(resumed.to_plain()[part], whole.to_plain()[part], exact=True), part


class TestValidation:
    def test_validate_returns_metrics(self, tiny_point_config: Make) -> None:
        trainer = make_trainer(
            tiny_point_config(**{"data.split.train": 0.5, "data.split.val": 0.375, "data.split.test": 0.125})
        )
        loader = trainer.workload.loaders["val"]
        assert (loader.num_samples, len(loader)) == (3, 2)
        with Silent().phase("validate", len(loader)) as bar:
            sums = run_split(trainer.workload, loader, CPU, bar)
        sums.flush()
        metrics = trainer.workload.summarize(sums.values, sums.num_samples)
        assert sums.num_samples == 3
        expected = {"loss", "region_loss", "point_loss", "point_top1", "alignment", "uniformity", "effective_rank"}
        assert expected <= metrics.keys()
        assert all(np.isfinite(value) for value in metrics.values())
        losses = []
        trainer.workload.module.eval()
        for raw_batch in loader.batches(epoch=0):
            with torch.no_grad():
                output = trainer.workload.module(*trainer.workload.to_device(raw_batch, CPU.device, train=False))
            losses += [float(output.loss)] * output.num_samples
        assert metrics["loss"] == pytest.approx(float(np.mean(losses)), rel=1e-6)

    def test_validate_no_gradient(self, tiny_point_config: Make) -> None:
        trainer = make_trainer(tiny_point_config())
        module, loader = trainer.workload.module, trainer.workload.loaders["val"]
        before, seen = copies(module), []

        def look(module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.append((module.training, torch.is_grad_enabled(), output.loss.requires_grad))

        module.register_forward_hook(look)
        with Silent().phase("validate", len(loader)) as bar:
            run_split(trainer.workload, loader, CPU, bar)
        assert seen == [(False, False, False)] * len(loader)
        assert all(parameter.grad is None for parameter in module.parameters())
        assert same(before, module.state_dict(), exact=True)


class TestFit:
    def test_fit_runs_epochs(self, tiny_point_config: Make, tmp_path: Path) -> None:
        trainer = fitted(make_trainer(tiny_point_config(training__epochs=3)), tmp_path / "run")
        assert trainer.state.epoch == 4
        assert trainer.state.step == 9
        assert not trainer.state.stopped_early
        rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
        assert [(row["epoch"], row["step"]) for row in rows if row["kind"] == "step"] == [
            (1 + step // 3, 1 + step) for step in range(9)
        ]

    def test_fit_tracks_history(self, tiny_point_config: Make, tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        trainer = fitted(make_trainer(tiny_point_config(training__epochs=3)), tmp_path / "run")
        history = trainer.state.history
        rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
        assert [row for row in rows if row["kind"] == "epoch"] == history
        assert [row["epoch"] for row in history] == [1, 2, 3]
        assert history[-1]["train"]["loss"] < history[0]["train"]["loss"]
        events = EventAccumulator(str(tmp_path / "run"))
        events.Reload()
        for tag, values in (
            ("train/loss", [row["train"]["loss"] for row in history]),
            ("val/loss", [row["val"]["loss"] for row in history]),
        ):
            assert [event.value for event in events.Scalars(tag)] == pytest.approx(values, rel=1e-6)
        assert "learning_rate" in events.Tags()["scalars"]


class TestSmallBackboneMode:
    def test_small_backbone_dimensions(self) -> None:
        config = checked(small_mode=True)
        assert isinstance(config, DbbdConfig)
        state = make_network(config).state_dict()
        backbone = [tuple(state[f"encoder.encoder.backbone.mlp.{layer}.weight"].shape) for layer in (0, 3, 6)]
        assert backbone == [(32, 3 + 64), (64, 32), (64, 64)]
        assert state["encoder.raw_projection.mlp.0.weight"].shape == (64, 3)
        assert state["loss.region_projection.layers.3.weight"].shape[0] == 64
        full = checked()
        assert isinstance(full, DbbdConfig)
        assert make_network(full).state_dict()["encoder.encoder.backbone.mlp.0.weight"].shape == (64, 3 + 96)
