"""The settings of DBBD are validated, and small mode changes only unset ones."""

from __future__ import annotations

from typing import Any

import pytest

from dbbd_cli.config.load import Override
from dbbd_cli.config.sections import to_plain
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.tasks.configs import config_from_mapping
from dbbd_cli.tasks.dbbd.config import SMALL, DbbdConfig


def checked(overrides: tuple[Override, ...] = (), **sections: Any) -> DbbdConfig:
    config = config_from_mapping({"task": "dbbd", **sections}, overrides, origin="test")
    assert isinstance(config, DbbdConfig)
    return config


def problem(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        checked(**sections)
    assert len(caught.value.details) == 1, caught.value.details
    return caught.value.details[0]


def test_small_mode_changes_only_unset_values() -> None:
    config = checked(small_mode=True, model={"hidden_dim": 32}, training={"epochs": 3})
    assert config.model.hidden_dim == 32
    assert config.model.output_dim == 64
    assert config.training.batch_size == 2
    assert config.training.epochs == 3


def test_an_explicit_null_is_kept() -> None:
    config = checked(small_mode=True, data={"max_train_scenes": None})
    assert config.data.max_train_scenes is None
    assert config.data.max_val_scenes == 2


def test_small_mode_knows_what_it_set_also_in_a_stored_configuration() -> None:
    config = checked(small_mode=True, model={"hidden_dim": 32}, training={"epochs": 3})
    stored = config_from_mapping(to_plain(config), origin="x")
    assert isinstance(stored, DbbdConfig)
    for same in (config, stored):
        assert {"training.batch_size", "model.output_dim", "data.max_train_scenes"} <= same.set_by_small_mode
        assert not {"model.hidden_dim", "training.epochs"} & same.set_by_small_mode
    assert checked().set_by_small_mode == frozenset()


def test_values_of_small_mode_are_not_shared_between_configurations() -> None:
    before = {section: dict(settings) for section, settings in SMALL.items()}
    small = checked(small_mode=True)
    small.model.encoder_hidden_dims.append(5)
    assert {section: dict(settings) for section, settings in SMALL.items()} == before
    assert checked(small_mode=True).model.encoder_hidden_dims == [32, 64]


@pytest.mark.parametrize("off", [{}, {"small_mode": False}])
def test_without_small_mode_defaults_are_full_size(off: dict[str, Any]) -> None:
    config = checked(**off)
    assert config.model.hidden_dim == 96
    assert config.data.max_train_scenes is None


def test_small_mode_on_the_command_line_works_like_in_the_file() -> None:
    config = checked((Override("small_mode", True, "--small"),), model={"hidden_dim": 96})
    assert config.model.hidden_dim == 96
    assert config.model.output_dim == 64


def test_a_small_configuration_round_trips() -> None:
    config = checked(small_mode=True, data={"max_train_scenes": None}, loss={"point_samples": 4096})
    assert config_from_mapping(to_plain(config), origin="again") == config


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_small_mode_is_true_or_false(wrong: object) -> None:
    assert "expected true or false" in problem(small_mode=wrong)


def test_an_invalid_section_is_reported_in_small_mode_too() -> None:
    assert "model is 3" in problem(small_mode=True, model=3)
    assert "data is null" in problem(small_mode=True, data=None)


@pytest.mark.parametrize(
    ("features", "dim"),
    [
        (["normals"], 3),
        (["height"], 1),
        (["color", "height"], 4),
        (["normals", "color", "height"], 7),
        (["height", "normals"], 4),
    ],
)
def test_the_number_of_feature_channels(features: list[str], dim: int) -> None:
    data = checked(data={"features": features}).data
    assert data.features == features
    assert data.feature_dim == dim


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ([], "data.features is []"),
        (["normals", "normals"], "each feature at most once"),
        (["colors"], "expected color rather than colors"),
        (["intensity"], "synthetic rooms have no other properties"),
        ("normals", "expected a list, such as [a, b]"),
    ],
)
def test_invalid_features_are_refused(features: object, told: str) -> None:
    assert told in problem(data={"features": features})


@pytest.mark.parametrize(("heads", "dim", "fits"), [(4, 96, True), (5, 96, False), (7, 14, True), (3, 64, False)])
def test_heads_must_divide_the_output_of_attention(heads: int, dim: int, fits: bool) -> None:
    model = {"num_heads": heads, "output_dim": dim}
    assert checked(model=model).model.num_heads == heads  # irrelevant without attention
    if fits:
        assert checked(model={**model, "aggregation": "attention"}).model.num_heads == heads
    else:
        told = problem(model={**model, "aggregation": "attention"})
        assert f"model.num_heads is {heads}" in told
        assert f"expected a divisor of output_dim ({dim})" in told


def test_rules_across_settings() -> None:
    assert "expected null, because source is synthetic" in problem(data={"source": "synthetic", "path": "scans"})
    assert "greater than 0, because point_weight is 0" in problem(loss={"region_weight": 0, "point_weight": 0})
    assert "no pretrained weights to download" in problem(model={"weights": "default"})
    assert "at most learning_rate" in problem(training={"learning_rate": 1e-6})
    assert checked(loss={"region_weight": 0}).loss.point_weight == 0.5
    alone = {"region_weight": 0, "point_weight": 0, "description_weight": 1}
    assert checked(loss=alone, checkpoint={"metric": "description_loss"}).loss.description_weight == 1.0
    assert "another metric, because loss.description_weight is 0" in problem(checkpoint={"metric": "description_loss"})
    assert checked(data={"source": "folder"}).data.path is None  # required only when scenes are needed


@pytest.mark.parametrize(
    ("section", "key", "wrong"),
    [
        ("data", "synthetic_scenes", 2),
        ("data", "synthetic_points", 999),
        ("data", "max_depth", 0),
        ("data", "max_train_scenes", 0),
        ("data", "normal_neighbors", 2),
        ("data", "min_region_points", 0),
        ("model", "encoder_hidden_dims", []),
        ("model", "encoder_hidden_dims", [64, 0]),
        ("model", "pooling", "attention"),
        ("loss", "temperature", 0),
        ("loss", "point_samples", 1),
        ("training", "batch_size", 0),
        ("training", "label_smoothing", 0.1),
    ],
)
def test_values_out_of_range_and_keys_of_other_tasks_are_refused(section: str, key: str, wrong: object) -> None:
    assert f"{section}.{key}" in problem(**{section: {key: wrong}})


def test_the_settings_of_scene_preparation() -> None:
    data = checked(data={"normal_neighbors": 5, "max_depth": 3, "min_region_points": 7}).data
    settings = {"normal_neighbors": 5, "max_depth": 3, "min_region_points": 7}
    settings |= {"grid_size": None, "mesh_points": 100_000}
    assert data.preparation == {**settings, "geometry": False, "properties": ()}
    data = checked(data={"source": "folder", "features": ["intensity", "geometry", "normals", "curvature"]}).data
    assert (data.preparation["geometry"], data.preparation["properties"]) == (True, ("intensity", "curvature"))
    assert data.feature_dim == 1 + 29 + 3 + 1
    assert checked(data={"path": "scans", "grid_size": 0.05}).data.preparation["grid_size"] == 0.05


def test_rooms_are_not_thinned() -> None:
    assert "data.grid_size" in problem(data={"source": "synthetic", "grid_size": 0.1})


def test_fixed_settings_cover_data_and_network() -> None:
    fixed = DbbdConfig.fixed_settings
    plain = to_plain(checked())
    for key in fixed:
        place: Any = plain
        for part in key.split("."):
            assert part in place, key
            place = place[part]
    assert {"seed", "small_mode", "data.features", "data.max_depth", "model.hidden_dim", "model.aggregation"} <= set(
        fixed
    )
    assert "model.gradient_checkpointing" not in fixed
    assert "data.path" not in fixed


def test_the_older_spelling_of_color_still_loads() -> None:
    assert checked(data={"features": ["normals", "colour"]}).data.features == ["normals", "color"]


def test_negatives_of_the_whole_batch_are_also_called_global() -> None:
    assert checked(loss={"negatives": "global"}).loss.negatives == "batch"
    assert checked(loss={"negatives": "local"}).loss.negatives == "local"
    assert "expected 'batch', 'scene' or 'local'" in problem(loss={"negatives": "world"})


def test_class_names_are_unique() -> None:
    assert "expected unique names" in problem(data={"class_names": ["wall", "floor", "wall"]})


def test_prototypes_need_a_teacher_and_have_no_negatives() -> None:
    assert checked(loss={"kind": "prototypes", "momentum": 0.99}).loss.num_prototypes == 256
    text = problem(loss={"kind": "prototypes"})
    assert "loss.momentum" in text
    assert "because kind is prototypes" in text
    for negatives in ("scene", "local"):
        assert "loss.negatives" in problem(loss={"kind": "prototypes", "momentum": 0.99, "negatives": negatives})
    assert "less than 1" in problem(loss={"momentum": 1.0})


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("mask", 1.0), ("point_dropout", 1.0), ("feature_dropout", -0.1), ("crop", 0.0), ("local_size", 1.5),
     ("local_views", -1), ("mask_level", 0), ("jitter", -1.0), ("feature_noise", float("nan"))],
)  # fmt: skip
def test_settings_of_views_have_limits(key: str, wrong: float) -> None:
    assert f"data.views.{key}" in problem(data={"views": {key: wrong}})
