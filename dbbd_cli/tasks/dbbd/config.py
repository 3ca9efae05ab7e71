"""The settings of DBBD, self-supervised pretraining on point clouds."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from dbbd_cli.config.sections import (
    FIXED_SETTINGS,
    CheckpointConfig,
    Count,
    DataConfig,
    ModelConfig,
    NotEmpty,
    NotNegative,
    Positive,
    Section,
    SplitConfig,
    TaskConfig,
    TrainingConfig,
    is_set,
    rule_error,
    section,
)

SAMPLE_UNIT = "scenes"
PROGRESS_METRICS = ("loss", "point_top1")
"""The metrics that summarize an epoch; the others are only logged."""

FEATURE_CHANNELS = {"normals": 3, "color": 3, "height": 1, "geometry": 29}
"""The features of every scene, and their channels; others are properties of the files."""
FeatureName = Annotated[str, Field(min_length=1, max_length=64)]

Channels = Annotated[int, Field(ge=1, le=4096)]

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


class DbbdDataConfig(DataConfig):
    """Where the scenes come from, and how they become batches."""

    source: Literal["folder", "synthetic"] = Field(
        "synthetic",
        description="folder: scenes as .ply, .las, .pcd, .npz or other files (docs/formats.md) or folders of .npy, "
        "divided into train, val and test or undivided; synthetic: generated furnished rooms; if omitted, path implies "
        "folder",
    )
    path: NotEmpty | None = Field(None, description="folder of the scenes (source: folder)")
    synthetic_scenes: Annotated[int, Field(ge=3, le=100_000)] = Field(
        40, description="number of rooms (source: synthetic)"
    )
    synthetic_points: Annotated[int, Field(ge=1000, le=1_000_000)] | None = Field(
        None, description="number of points of each room; null: 20,000 to 50,000 (source: synthetic)"
    )
    split: SplitConfig = section("fractions of the splits, if the folder is not divided")
    follow_links: Literal["scenes", "all"] = Field(
        "scenes",
        description="scenes: follow links to scenes, wherever they point; all: also links inside a scene folder that "
        "point outside it, as in the caches of Hugging Face and git-annex (source: folder)",
    )
    max_train_scenes: Count | None = Field(
        None, description="maximum number of training scenes, the first ones by name; null: all"
    )
    max_val_scenes: Count | None = Field(None, description="maximum number of validation scenes; null: all")
    max_test_scenes: Count | None = Field(None, description="maximum number of test scenes; null: all")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="fail: an unusable scene ends the run; skip: it is left out and listed in splits.json"
    )
    features: Annotated[list[FeatureName], Field(min_length=1, max_length=32)] = Field(
        ["normals"],
        description="per-point features besides coordinates: normals (estimated if a scene has none), "
        "color (0 to 1), height (above the lowest point, in the scene's unit), geometry (29 features of the "
        "neighborhood and the column of each point), or the name of another property in the files, such as intensity "
        "(standardized within each scene)",
    )
    grid_size: Positive | None = Field(
        None,
        description="side of the cells of a grid, in the scene's unit: of the points in each cell, only the one "
        "nearest to its center is read; null: all points are (source: folder)",
    )
    mesh_points: Annotated[int, Field(ge=4, le=20_000_000)] = Field(
        100_000, description="number of points that are sampled from a mesh, such as .obj or .glb (source: folder)"
    )
    normal_neighbors: Annotated[int, Field(ge=3, le=128)] = Field(
        16, description="number of nearest points from which a missing normal is estimated"
    )
    max_depth: Annotated[int, Field(ge=1, le=32)] = Field(
        4, description="maximum depth of the region tree; deeper stored trees are cut"
    )
    min_region_points: Count = Field(
        16,
        description="regions with fewer than twice this many points are not divided (stored trees are kept)",
    )
    views: ViewConfig = section("random augmentation")
    class_names: list[NotEmpty] | None = Field(
        None, description="names of the labels 0, 1, … in reports; null: their numbers"
    )
    ignore_labels: list[Annotated[int, Field(ge=-(2**31), lt=2**31)]] | None = Field(
        None,
        description="labels that are not classes, such as [0, 255]; negative labels and NaN never are; null: "
        "255 or 65535 in 8-bit or 16-bit unsigned labels if all others are smaller by 2 or more; []: none",
    )
    num_workers: Annotated[int, Field(ge=0, le=256)] = Field(
        4, description="number of processes that load batches; 0: load them in the training process"
    )
    cache_dir: NotEmpty | None = Field(
        None, description="folder for prepared scenes; null: $DBBD_CACHE_DIR, or the user's cache folder"
    )

    @field_validator("features", mode="before")
    @classmethod
    def _older_spelling(cls, value: Any) -> Any:
        """Earlier versions spelled it "colour"."""
        return ["color" if name == "colour" else name for name in value] if isinstance(value, list) else value

    @model_validator(mode="before")
    @classmethod
    def _path_implies_folder(cls, values: Any) -> Any:
        implied = isinstance(values, Mapping) and is_set(values, "path") and not is_set(values, "source")
        return {**values, "source": "folder"} if implied else values

    @model_validator(mode="after")
    def _check_source(self) -> DbbdDataConfig:
        # A missing path is reported when scenes are needed: a shared configuration is valid without one.
        if self.source == "synthetic" and self.path is not None:
            raise rule_error("path", "null, because source is synthetic; omit source to use your own data")
        if self.source == "synthetic" and self.grid_size is not None:
            raise rule_error("grid_size", "null, because synthetic rooms have synthetic_points points")
        for name in self.properties:
            if meant := get_close_matches(name, FEATURE_CHANNELS, n=1, cutoff=0.85):
                raise rule_error("features", f"{meant[0]} rather than {name}")
        if self.source == "synthetic" and self.properties:
            known = ", ".join(FEATURE_CHANNELS)
            raise rule_error("features", f"only {known}, because synthetic rooms have no other properties")
        if self.class_names and len(set(self.class_names)) < len(self.class_names):
            raise rule_error("class_names", "unique names")
        if len(set(self.features)) < len(self.features):
            raise rule_error("features", "each feature at most once")
        return self

    @property
    def feature_dim(self) -> int:
        """Total number of feature channels of a point."""
        return sum(FEATURE_CHANNELS.get(feature, 1) for feature in self.features)

    @property
    def properties(self) -> tuple[str, ...]:
        """The features that are properties of the files."""
        return tuple(feature for feature in self.features if feature not in FEATURE_CHANNELS)

    @property
    def preparation(self) -> dict[str, Any]:
        """The settings that determine how a scene is prepared."""
        names = ("normal_neighbors", "max_depth", "min_region_points", "grid_size", "mesh_points")
        settings = {name: getattr(self, name) for name in names}
        return {**settings, "geometry": "geometry" in self.features, "properties": self.properties}


class DbbdModelConfig(ModelConfig):
    """The network."""

    hidden_dim: Channels = Field(96, description="channels of projected point features")
    output_dim: Channels = Field(96, description="channels of region and point features")
    encoder_hidden_dims: Annotated[list[Channels], Field(min_length=1, max_length=16)] = Field(
        [64, 128], description="hidden channels of the region encoder, layer by layer"
    )
    propagator_hidden_dim: Channels = Field(
        128, description="hidden channels of the propagation from a region to its children"
    )
    projection_dim: Channels = Field(128, description="channels of the projections that the loss compares")
    aggregation: Literal["max", "mean", "attention"] = Field(
        "max", description="how the features of child regions are aggregated into their parent's"
    )
    pooling: Literal["max", "mean"] = Field("max", description="how the points of a region are pooled into one feature")
    num_heads: Count = Field(4, description="attention heads, a divisor of output_dim (aggregation: attention)")
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time, same results"
    )
    weights: NotEmpty = Field(
        "none",
        description="none: random; or path of a checkpoint to start from, also of the first implementation",
    )

    @model_validator(mode="after")
    def _check_heads(self) -> DbbdModelConfig:
        if self.aggregation == "attention" and self.output_dim % self.num_heads:
            raise rule_error("num_heads", f"a divisor of output_dim ({self.output_dim})")
        if self.weights == "default":
            raise rule_error("weights", "none or a path, because there are no pretrained weights to download")
        return self


class ContrastConfig(Section):
    """The contrastive loss between the two branches, over regions and over sampled points."""

    temperature: Positive = Field(0.1, description="temperature of the InfoNCE loss")
    region_weight: NotNegative = Field(1.0, description="weight of the mean loss over the levels of the tree")
    point_weight: NotNegative = Field(0.5, description="weight of the loss over points")
    point_samples: Annotated[int, Field(ge=2, le=65_536)] = Field(
        4096, description="number of points compared per batch"
    )

    @model_validator(mode="after")
    def _check_weights(self) -> ContrastConfig:
        if self.region_weight == 0.0 and self.point_weight == 0.0:
            raise rule_error("region_weight", "greater than 0, because point_weight is 0")
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

    metric: Literal["loss", "region_loss", "point_loss", "region_top1", "point_top1"] = Field(
        "loss",
        description="validation metric that decides which epoch is best (the first on ties): the lowest loss, or the "
        "highest top-1 accuracy of points or regions (mean over the levels of the tree); early stopping uses it too, "
        "but reduce_on_plateau always uses the loss",
    )


class DbbdConfig(TaskConfig):
    """A pretraining run."""

    fixed_settings: ClassVar[tuple[str, ...]] = (
        *FIXED_SETTINGS,
        "small_mode",
        "data.synthetic_scenes",
        "data.synthetic_points",
        "data.max_train_scenes",
        "data.max_val_scenes",
        "data.max_test_scenes",
        "data.features",
        "data.grid_size",
        "data.mesh_points",
        "data.normal_neighbors",
        "data.max_depth",
        "data.min_region_points",
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
