"""Weights outside of any run, such as checkpoints of the first implementation, are evaluated and trained from."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.config.load import Override
from dbbd_cli.core.errors import CheckpointError, ConfigError, DbbdError
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.model.dbbd.weights import weights_in
from dbbd_cli.model.weights import load_tensors
from dbbd_cli.services.bare_weights import open_bare_weights
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.plot import plot
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from dbbd_cli.tasks.dbbd.config import DbbdConfig
from dbbd_cli.tasks.dbbd.workload import make_network

Make = Callable[..., DbbdConfig]
SEVEN = 7


def state_of(config: DbbdConfig, seed: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return make_network(config).state_dict()


def first_implementation(state: dict[str, torch.Tensor], path: Path, **more: Any) -> Path:
    """Write a checkpoint as the first implementation did."""

    def part(name: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}

    content = {
        "epoch": SEVEN,
        "global_step": 2100,
        "encoder_state_dict": part("encoder"),
        "loss_fn_state_dict": part("loss"),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]},
        "best_val_loss": 3.5,
        **more,
    }
    torch.save(content, path)
    return path


class TrainingConfig:
    """The configuration object of the first implementation, which its Trainer pickles."""

    loaded = False

    def __init__(self, **settings: Any) -> None:
        self.small_mode, self.input_feat_dim, self.batch_size, self.device = True, 3, 2, "cuda"
        self.data_root, self.max_train_scenes, self.encoder_hidden_dims = Path("datasets/scannet"), 1, [16]
        self.alpha, self.beta, self.temperature, self.point_num_samples = 1.0, 0.5, 0.1, 64
        self.aggregator_mode, self.encoder_pooling, self.max_hierarchy_depth = "max", "max", 2
        self.__dict__.update(settings)

    def __setstate__(self, state: dict[str, Any]) -> None:
        TrainingConfig.loaded = True


ALIASES = {
    "encoder.raw_projection.": ("encoder.g2l_traversal.raw_projection.", "encoder.l2g_traversal.projection."),
    "encoder.combine_projection.": ("encoder.g2l_traversal.combine_projection.",),
    "encoder.encoder.": ("encoder.g2l_traversal.encoder.", "encoder.l2g_traversal.encoder."),
    "encoder.propagator.": ("encoder.g2l_traversal.propagator.",),
    "encoder.aggregator.": ("encoder.l2g_traversal.aggregator.",),
    "loss.region_projection.": ("loss.region_loss.projection_head.",),
    "loss.point_projection.": ("loss.point_loss.projection_head.",),
}


def with_aliases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict with the duplicate names of the first implementation."""
    more = {
        alias + key.removeprefix(name): value
        for key, value in state.items()
        for name, aliases in ALIASES.items()
        if key.startswith(name)
        for alias in aliases
    }
    assert len(more) > len(state)
    return {**state, **more}


def where(root: Path, **settings: object) -> list[Override]:
    values = {"data.path": str(root), "run.device": "cpu", "data.num_workers": 0, "data.max_depth": 2, **settings}
    return [Override(key.replace("__", "."), value, f"--set {key}") for key, value in values.items()]


def test_a_checkpoint_of_the_first_implementation_is_evaluated_next_to_its_file(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = first_implementation(state_of(tiny_point_config()), tmp_path / "checkpoint_best.pth")
    result = evaluate(path, plots=False, overrides=where(scene_folder()))
    report = result.report
    assert result.run == tmp_path / "checkpoint_best-evaluation"
    assert {file.parent for file in result.files} == {result.run}
    assert (report["task"], report["checkpoint"], report["epoch"]) == ("dbbd", "checkpoint_best.pth", SEVEN)
    assert report["synthetic"] is False
    assert report["num_samples"] == 1
    assert [row["name"] for row in report["probe"]["features"]] == ["pretrained", "random encoder", "raw features"]  # type: ignore[index]
    assert not list(tmp_path.glob("runs"))


@pytest.mark.parametrize("aggregation", ["max", "attention"])
def test_its_losses_are_those_of_the_same_weights_in_a_run(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, aggregation: str
) -> None:
    root = scene_folder()
    config = tiny_point_config(data__path=str(root), training__epochs=1, model__aggregation=aggregation)
    run = train(config).run
    expected = evaluate(run, split="val", plots=False).report
    state = load_checkpoint(run / "best_model.pth")["module"]
    path = first_implementation(state, tmp_path / "old.pt")
    found = evaluate(
        path, split="val", plots=False, overrides=where(root, loss__point_samples=64, training__batch_size=2)
    ).report
    with_config = evaluate(path, split="val", plots=False, config=str(run / "config.yaml")).report
    for report in (found, with_config):
        assert {key: report[key] for key in ("loss", "contrast")} == {
            key: expected[key] for key in ("loss", "contrast")
        }
        probes = [dict(one["probe"])["features"][0] for one in (report, expected)]  # type: ignore[call-overload]
        assert probes[0] == probes[1]


def test_settings_that_weights_do_not_determine_come_from_the_command_line(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    path, root = first_implementation(state_of(tiny_point_config()), tmp_path / "old.pth"), scene_folder(labels=False)
    losses = [
        evaluate(path, plots=False, overrides=where(root, **settings)).report["loss"]
        for settings in ({}, {"model.aggregation": "mean"}, {"model.pooling": "mean"}, {"loss.temperature": 0.2})
    ]
    assert len(set(losses)) == 4


def test_training_starts_from_them(tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path) -> None:
    state = state_of(tiny_point_config())
    path = first_implementation(state, tmp_path / "old.pth")
    still = {"training.learning_rate": 1e-12, "training.min_lr": 0.0, "training.epochs": 1}
    run = train(tiny_point_config(**still, **{"model.weights": str(path)})).run
    moved = load_checkpoint(run / "ckpt.pth")["module"]
    assert moved.keys() == state.keys()
    assert all(float((moved[name] - state[name]).abs().max()) < 1e-6 for name in state)
    path.unlink()
    assert evaluate(run, plots=False).report["epoch"] == 1  # a run no longer needs the file


def test_training_starts_from_a_bare_state_dict(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    state, root = state_of(tiny_point_config()), scene_folder(labels=False)
    torch.save(state, tmp_path / "bare.pth")
    bare = evaluate(tmp_path / "bare.pth", plots=False, overrides=where(root)).report
    path = first_implementation(state, tmp_path / "old.pth")
    assert bare["epoch"] == 0
    assert bare["loss"] == evaluate(path, plots=False, overrides=where(root)).report["loss"]


@pytest.mark.parametrize("aggregation", ["max", "attention"])
def test_a_stored_configuration_and_aliases_change_nothing(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, aggregation: str
) -> None:
    state, root = state_of(tiny_point_config(model__aggregation=aggregation)), scene_folder(labels=False)
    settings = {"loss.point_samples": 64, "training.batch_size": 2}
    plain = first_implementation(state, tmp_path / "plain.pth")
    path = first_implementation(
        with_aliases(state), tmp_path / "old.pth", config=TrainingConfig(aggregator_mode=aggregation)
    )
    overrides = [override for override in where(root) if override.key != "data.max_depth"]  # the file contains it
    found = evaluate(path, plots=False, overrides=overrides).report
    assert found["loss"] == evaluate(plain, plots=False, overrides=where(root, **settings)).report["loss"]
    run = train(tiny_point_config(model__weights=str(path), model__aggregation=aggregation, training__epochs=1)).run
    assert load_checkpoint(run / "ckpt.pth")["module"].keys() == state.keys()
    assert not TrainingConfig.loaded


def test_commands_that_need_a_run_refuse_it(tiny_point_config: Make, tmp_path: Path) -> None:
    path = first_implementation(state_of(tiny_point_config()), tmp_path / "old.pth", config=TrainingConfig())
    for command in (validate, resume):
        with pytest.raises(CheckpointError, match="is not in a run folder"):
            command(path)
    with pytest.raises(CheckpointError, match="is not a run folder"):
        plot([path])
    assert not TrainingConfig.loaded


def test_its_configuration_is_used_unless_overridden(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    state, root = state_of(tiny_point_config()), scene_folder({"train": 1, "val": 1})
    said = TrainingConfig(aggregator_mode="mean", encoder_pooling="mean", temperature=0.2, alpha=2, beta=0.0)
    path = first_implementation(state, tmp_path / "old.pth", config=said)
    settings = [override for override in where(root) if override.key != "data.max_depth"]
    config = open_bare_weights(path, config=None, overrides=settings, progress=Silent())[0]
    assert (config.model.aggregation, config.model.pooling) == ("mean", "mean")
    assert (config.loss.temperature, config.loss.region_weight, config.loss.point_weight) == (0.2, 2.0, 0.0)
    assert (config.loss.point_samples, config.training.batch_size, config.data.max_depth) == (64, 2, 2)
    assert (config.run.device, config.data.path, config.data.max_train_scenes) == ("cpu", str(root), None)
    other = where(root, **{"model.aggregation": "max", "loss.temperature": 0.3})
    config = open_bare_weights(path, config=None, overrides=other, progress=Silent())[0]
    assert (config.model.aggregation, config.loss.temperature) == ("max", 0.3)
    as_dict = first_implementation(state, tmp_path / "dict.pth", config=vars(said) | {"data_root": "x"})
    assert open_bare_weights(as_dict, config=None, overrides=other, progress=Silent())[0].model.pooling == "mean"


def test_an_unknown_value_in_its_configuration_is_reported(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    said = TrainingConfig(aggregator_mode="transformer")
    path = first_implementation(state_of(tiny_point_config()), tmp_path / "old.pth", config=said)
    with pytest.raises(ConfigError) as caught:
        evaluate(path, overrides=where(scene_folder(labels=False)))
    told = f"{caught.value} {caught.value.details}"
    assert "old.pth" in told
    assert "model.aggregation" in told


@pytest.mark.parametrize("lost", ["canonical", "some aliases", "all aliases"])
def test_one_of_the_names_of_a_layer_is_enough(tiny_point_config: Make, tmp_path: Path, lost: str) -> None:
    state = state_of(tiny_point_config(model__aggregation="attention"))
    names = with_aliases(state)
    kept = {
        "canonical": {key: value for key, value in names.items() if key not in state},
        "some aliases": {key: value for number, (key, value) in enumerate(names.items()) if key in state or number % 3},
        "all aliases": state,
    }[lost]
    found = weights_in({"module": kept}, tmp_path / "old.pth")
    assert found is not None
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("alias", [alias for aliases in ALIASES.values() for alias in aliases])
def test_names_of_a_layer_with_different_weights_are_reported(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, alias: str
) -> None:
    names = with_aliases(state_of(tiny_point_config()))
    key = next(key for key in names if key.startswith(alias) and key.endswith(".0.weight"))
    names[key] = names[key].clone()
    names[key].view(-1)[-1] += 1e-6
    path = first_implementation(names, tmp_path / "old.pth")
    for use in (
        lambda: evaluate(path, overrides=where(scene_folder(labels=False))),
        lambda: train(tiny_point_config(model__weights=str(path))),
    ):
        with pytest.raises(CheckpointError, match=rf"old\.pth: {re.escape(key)} and .* differ"):
            use()


def test_the_real_file_of_the_first_implementation(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, shared: Path
) -> None:
    path, root = tmp_path / "old.pth", scene_folder(labels=False)
    shutil.copyfile(shared / "data" / "first_implementation.pth", path)
    config = open_bare_weights(path, config=None, overrides=where(root), progress=Silent())[0]
    assert isinstance(config, DbbdConfig)
    model = config.model
    assert (model.encoder_hidden_dims, model.hidden_dim, model.projection_dim) == ([32, 64], 64, 64)
    assert (config.loss.point_samples, config.training.batch_size) == (512, 2)
    report = evaluate(path, plots=False, overrides=where(root)).report
    assert 0 < report["loss"] < 20  # type: ignore[operator]
    sizes = {f"model.{name}": getattr(model, name) for name in ("encoder_hidden_dims", "hidden_dim", "output_dim")}
    sizes |= {f"model.{name}": 64 for name in ("propagator_hidden_dim", "projection_dim")}
    still = {"training.learning_rate": 1e-12, "training.min_lr": 0.0, "training.epochs": 1}
    run = train(tiny_point_config(**sizes, **still, **{"model.weights": str(path)})).run
    moved = load_checkpoint(run / "ckpt.pth")["module"]
    content = load_tensors(path, objects=True)
    assert isinstance(content, dict)
    for key, value in content["encoder_state_dict"].items():
        if "traversal" not in key:
            assert float((moved[f"encoder.{key}"] - value).abs().max()) < 1e-6


@pytest.mark.parametrize("epoch", [None, "seven", -1, 2.5, True, torch.tensor(3), 10**12])
def test_an_invalid_epoch_is_ignored(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, epoch: object
) -> None:
    path = first_implementation(state_of(tiny_point_config()), tmp_path / "old.pth", epoch=epoch)
    overrides = where(scene_folder({"train": 1, "val": 1}))
    assert open_bare_weights(path, config=None, overrides=overrides, progress=Silent())[2] == 0


def test_another_number_of_features_is_refused(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = scene_folder(colors=True, labels=False)
    state = state_of(tiny_point_config(data__features=["normals", "color"]))
    path = first_implementation(state, tmp_path / "old.pth")
    with pytest.raises(ConfigError, match=r"trained on 6 features per point, and data\.features gives 3") as caught:
        evaluate(path, overrides=where(root))
    assert "--set data.features=[normals,color]" in caught.value.hint
    wide = state_of(tiny_point_config())
    wide["encoder.raw_projection.mlp.0.weight"] = torch.zeros(16, 5)
    with pytest.raises(ConfigError, match=r"trained on 5 features per point") as caught:
        evaluate(first_implementation(wide, tmp_path / "wide.pth"), overrides=where(root))
    assert "no choice of data.features gives 5" in caught.value.hint
    assert evaluate(path, plots=False, overrides=where(root, data__features=["normals", "color"])).report["loss"]


def test_a_missing_folder_of_scenes_or_a_wrong_configuration_is_refused(
    tiny_point_config: Make, tmp_path: Path
) -> None:
    path = first_implementation(state_of(tiny_point_config()), tmp_path / "old.pth")
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        evaluate(path)
    with pytest.raises(ConfigError, match="the task image_classification does not recognize"):
        evaluate(path, config="qr_cnn")
    with pytest.raises(ConfigError, match="no such file or shipped config"):
        evaluate(path, config=str(tmp_path / "missing.yaml"))
    assert not (tmp_path / "old-evaluation").exists()


def changed(**weights: torch.Tensor | None) -> Callable[[Path, dict[str, torch.Tensor]], object]:
    """Write a checkpoint with other weights of the encoder; None leaves one out."""

    def write(path: Path, state: dict[str, torch.Tensor]) -> None:
        others = {f"encoder.{name.replace('__', '.')}": value for name, value in weights.items()}
        first_implementation({key: v for key, v in {**state, **others}.items() if v is not None}, path)

    return write


def cut_off(path: Path, state: dict[str, torch.Tensor]) -> None:
    first_implementation(state, path)
    path.write_bytes(path.read_bytes()[:-500])


WRONG: dict[str, Callable[[Path, dict[str, torch.Tensor]], object]] = {
    "garbage": lambda path, state: path.write_bytes(b"no checkpoint at all"),
    "empty": lambda path, state: path.write_bytes(b""),
    "cut off": cut_off,
    "another network": lambda path, state: torch.save({"layer.weight": torch.zeros(3, 3)}, path),
    "a list": lambda path, state: torch.save([torch.zeros(3)], path),
    "one is missing": changed(aggregator__pre_mlp__0__weight=None),
    "one too many": changed(extra__weight=torch.zeros(2)),
    "one of another shape": changed(aggregator__pre_mlp__0__weight=torch.zeros(3, 16)),
    "flat": changed(raw_projection__mlp__0__weight=torch.zeros(48)),
    "no rows": changed(propagator__mlp__0__weight=torch.zeros(0, 19)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_files_without_weights_of_dbbd_are_refused(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    path, root = tmp_path / "wrong.pth", scene_folder(labels=False)
    WRONG[kind](path, state_of(tiny_point_config()))
    with pytest.raises(DbbdError, match=r"wrong\.pth") as caught:
        evaluate(path, overrides=where(root))
    assert caught.value.exit_code in (2, 4)
    if kind != "no rows":  # reported as a setting out of range
        assert isinstance(caught.value, CheckpointError)
    with pytest.raises(CheckpointError, match=r"wrong\.pth"):
        train(tiny_point_config(model__weights=str(path)))
    assert not (tmp_path / "wrong-evaluation").exists()
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_that_was_moved_out_of_its_run(
    tiny_point_config: Make, scene_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = scene_folder(labels=False)
    run = train(tiny_point_config(data__path=str(root), training__epochs=1)).run
    (tmp_path / "kept").mkdir()
    path = Path((run / "best_model.pth").rename(tmp_path / "kept" / "model.pth"))
    report = evaluate(path, split="val", plots=False).report
    logged = load_checkpoint(run / "ckpt.pth")["state"]["history"][-1]["val"]
    assert report["epoch"] == 1
    assert report["num_samples"] == 2
    assert report["loss"] == pytest.approx(logged["loss"], abs=1e-6)  # its own settings, and the same split
