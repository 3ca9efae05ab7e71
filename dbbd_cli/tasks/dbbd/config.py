"""The settings of DBBD, self-supervised pretraining on point clouds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dbbd_cli.config.sections import (
    CheckpointConfig,
    Count,
    NotEmpty,
    NotNegative,
    Positive,
    Section,
    TaskConfig,
    TrainingConfig,
    rule_error,
    section,
)
from dbbd_cli.tasks.scene_config import (
    BATCHES_OF_EARLIER_VERSIONS,
    FIXED_SCENE_SETTINGS,
    Channels,
    SceneDataConfig,
    SceneModelConfig,
)
from dbbd_cli.tasks.scene_prediction_config import ScenePredictionConfig

PROGRESS_METRICS = ("loss", "point_top1")
"""The metrics that summarize an epoch; the others are only logged."""

SMALL: Mapping[str, Mapping[str, Any]] = {
    "data": {"max_train_scenes": 4, "max_val_scenes": 2, "max_test_scenes": 2, "num_workers": 0},
    "model": {
        "encoder_hidden_dims": [32, 64],
        "hidden_dim": 64,
        "output_dim": 64,
        "propagator_hidden_dim": 64,
        "projection_dim": 64,
    },
    "loss": {"point_samples": 512},
    "training": {"batch_size": 2},
}
"""Settings of `small_mode`, unless overridden."""


class ViewConfig(Section):
    """Random augmentation of a scene, drawn independently for its two views."""

    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = Field(
        180.0, description="maximum rotation about the vertical axis, in degrees; normals are rotated too"
    )
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.1, description="scenes are scaled by a random factor within 1 ± this"
    )
    flip: bool = Field(False, description="mirror every second view, chosen at random")
    jitter: NotNegative = Field(
        0.0, description="standard deviation of the noise added to each coordinate, in the scene's unit"
    )
    feature_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="probability with which a channel of the features is 0 in a view of a scene"
    )
    feature_noise: NotNegative = Field(
        0.0,
        description="standard deviation of the noise added to each feature of each point, normals excepted, in the "
        "unit of its channel",
    )
    point_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the points that each view loses at random"
    )
    mask: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the regions that the view of the branch from the leaves up loses as a whole"
    )
    mask_level: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None,
        description="level of the regions that are masked, where a leaf above it counts as one of them; null: the "
        "leaves",
    )
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="share of the points that the view of the branch from the leaves up keeps: those nearest to a "
        "random point, seen from above",
    )
    local_views: Annotated[int, Field(ge=0, le=32)] = Field(
        0,
        description="number of further, small views of each scene for the branch from the leaves up, each compared "
        "with the view of the other branch",
    )
    local_size: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.2, description="share of the points that a local view keeps, like crop"
    )


class DbbdDataConfig(SceneDataConfig):
    """Where the scenes come from, and how they become batches."""

    views: ViewConfig = section("random augmentation")


class DbbdModelConfig(SceneModelConfig):
    """The network."""

    projection_dim: Channels = Field(128, description="channels of the projections that the loss compares")
    weights: NotEmpty = Field(
        "none",
        description="none: random; or path of a checkpoint to start from, also of the first implementation",
    )


class ContrastConfig(Section):
    """The loss between the two branches, over regions and over sampled points."""

    kind: Literal["infonce", "prototypes"] = Field(
        "infonce",
        description="infonce: each region and point is told apart from all others; prototypes: it is assigned to the "
        "same of a number of learned prototypes by both branches, so that regions of different scenes can be alike "
        "(needs momentum)",
    )
    temperature: Positive = Field(0.1, description="temperature of the loss")
    level_temperatures: Annotated[list[Positive], Field(max_length=33)] = Field(
        [],
        description="temperatures of the levels from the root down; the last one holds for all further levels; []: "
        "that of points, temperature",
    )
    num_prototypes: Annotated[int, Field(ge=2, le=65_536)] = Field(
        256, description="number of prototypes, for regions and as many for points (kind: prototypes)"
    )
    target_temperature: Positive = Field(
        0.05, description="temperature at which a region or point is assigned to its prototypes (kind: prototypes)"
    )
    region_weight: NotNegative = Field(1.0, description="weight of the mean loss over the levels of the tree")
    point_weight: NotNegative = Field(0.5, description="weight of the loss over points")
    description_weight: NotNegative = Field(
        0.0,
        description="weight of the description loss: how well linear heads on the features of points and regions "
        "predict their data.features (of normals |z|) without augmentation, of regions the mean over all points; "
        "0: none",
    )
    point_samples: Annotated[int, Field(ge=2, le=65_536)] = Field(
        4096, description="number of points compared per batch, the same number of each scene"
    )
    symmetric: bool = Field(False, description="whether each of the two branches is the query in turn")
    negatives: Literal["batch", "scene", "local"] = Field(
        "batch",
        description="batch (or global): negatives come from all scenes of a batch; scene: only from the same scene; "
        "local: only from scenes that the same process computes, so that several exchange less, but the result depends "
        "on their number",
    )
    level_weights: Annotated[list[NotNegative], Field(min_length=1, max_length=33)] = Field(
        [1.0],
        description="relative weights of the levels from the root down; the last one holds for all further levels",
    )
    relative_to_chance: bool = Field(
        False, description="divide each loss by its chance level, so that levels of many regions do not outweigh others"
    )

    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="share of its weights that a moving average of the network keeps in each step, such as 0.996: the "
        "keys then come from it, without gradient, and each branch learns only as a query (symmetric); 0: the keys "
        "come from the network itself",
    )

    @field_validator("negatives", mode="before")
    @classmethod
    def _by_another_name(cls, value: object) -> object:
        return "batch" if value == "global" else value

    @model_validator(mode="after")
    def _check_weights(self) -> ContrastConfig:
        if self.region_weight == self.point_weight == self.description_weight == 0.0:
            raise rule_error("region_weight", "greater than 0, because point_weight is 0, and description_weight too")
        if self.kind == "prototypes" and not self.momentum:
            raise rule_error("momentum", "greater than 0, because kind is prototypes")
        if self.kind == "prototypes" and self.negatives != "batch":
            raise rule_error("negatives", "batch, because with kind: prototypes there are no negatives")
        if self.region_weight > 0.0 and not any(self.level_weights):
            raise rule_error("level_weights", "a weight greater than 0")
        return self


class DbbdTrainingConfig(TrainingConfig):
    """Optimization."""

    batch_size: Count = Field(4, description="scenes per batch; regions of all its scenes are negatives of each other")
    scheduler: Literal["reduce_on_plateau", "cosine", "step", "none"] = Field(
        "cosine", description="learning-rate schedule, updated after each epoch"
    )
    min_lr: NotNegative = Field(1e-5, description="lower bound of the learning rate in any schedule")


class DbbdCheckpointConfig(CheckpointConfig):
    """When the state of a run is saved, and which epoch is best."""

    metric: Literal["loss", "region_loss", "point_loss", "description_loss", "region_top1", "point_top1"] = Field(
        "loss",
        description="validation metric that decides which epoch is best (the first on ties): the lowest loss, or the "
        "highest top-1 accuracy of points or regions (mean over the levels of the tree); early stopping uses it too, "
        "but reduce_on_plateau always uses the loss",
    )


class DbbdPredictionConfig(ScenePredictionConfig):
    """The point features that `predict` writes."""

    branch: Literal["g2l", "l2g", "both"] = Field(
        "g2l",
        description="branch whose features are written: g2l (from the whole scene down, as in the linear probe), l2g "
        "(from the leaves up), or both, side by side",
    )
    dim: Count | None = Field(
        None, description="number of principal components, fitted to the training scenes, to keep; null: all channels"
    )
    normalization: Literal["none", "l2"] = Field(
        "none", description="l2: the features of each point are scaled to length 1"
    )


class ProbeConfig(Section):
    """How `evaluate` judges features."""

    features: Literal["path", "leaf"] = Field(
        "path",
        description="what the probes read of a point: path, its features and those of the regions below the "
        "root that contain it, of both branches; leaf, its features from the branch g2l alone",
    )
    scenes: Annotated[list[Count], Field(max_length=16)] = Field(
        [1, 5, 20],
        description="numbers of labeled training scenes that label efficiency is measured at, in addition to all",
    )
    draws: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description="how often the labeled scenes of each number are drawn at random"
    )


class DbbdConfig(TaskConfig):
    """A pretraining run."""

    batches_of_earlier_versions = BATCHES_OF_EARLIER_VERSIONS
    fixed_settings: ClassVar[tuple[str, ...]] = (
        *FIXED_SCENE_SETTINGS,
        "small_mode",
        # These change the loss, so that values before and after could not be compared.
        "data.views",
        "loss",
        "training.batch_size",
        # Gradient checkpointing changes only the cost of a step.
        *(f"model.{name}" for name in DbbdModelConfig.model_fields if name != "gradient_checkpointing"),
    )

    task: Literal["dbbd"] = Field(description="kind of training")
    small_mode: bool = Field(
        False, description="for laptops: a small network, batches of 2 and few scenes, unless overridden"
    )
    data: DbbdDataConfig = section("scenes")
    model: DbbdModelConfig = section("network")
    loss: ContrastConfig = section("loss")
    training: DbbdTrainingConfig = section("optimization")
    checkpoint: DbbdCheckpointConfig = section("checkpoints")
    predict: DbbdPredictionConfig = section("predictions")
    probe: ProbeConfig = section("probes of the features")

    @property
    def set_by_small_mode(self) -> frozenset[str]:
        """The dotted keys that have their values of `small_mode`; none if it is off."""
        sections = SMALL if self.small_mode else {}
        return frozenset(
            f"{name}.{key}"
            for name, settings in sections.items()
            for key, value in settings.items()
            if getattr(getattr(self, name), key) == value
        )

    @model_validator(mode="after")
    def _check_metric(self) -> DbbdConfig:
        if self.checkpoint.metric == "description_loss" and not self.loss.description_weight:
            raise rule_error("checkpoint.metric", "another metric, because loss.description_weight is 0")
        return self

    @model_validator(mode="after")
    def _check_prediction(self) -> DbbdConfig:
        channels = self.model.output_dim * (2 if self.predict.branch == "both" else 1)
        if self.predict.dim is not None and self.predict.dim > channels:
            raise rule_error("predict.dim", f"at most {channels}, the channels of the features")
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_in_small_values(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("small_mode") is not True:
            return values
        small = {
            name: {**settings, **written}
            for name, settings in SMALL.items()
            if isinstance(written := values.get(name, {}), Mapping)
        }
        return {**values, **small}
