"""The settings that the tasks on 3D scenes share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from dbbd_cli.config.sections import (
    FIXED_SETTINGS,
    Count,
    DataConfig,
    ModelConfig,
    NotEmpty,
    Positive,
    SplitConfig,
    is_set,
    rule_error,
    section,
)
from dbbd_cli.core.errors import ConfigError

SAMPLE_UNIT = "scenes"

FEATURE_CHANNELS = {"normals": 3, "color": 3, "height": 1, "geometry": 29}
"""The features of every scene, and their channels; others are properties of the files."""
FeatureNames = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(min_length=1, max_length=32)]
Label = Annotated[int, Field(ge=-(2**31), lt=2**31)]

Channels = Annotated[int, Field(ge=1, le=4096)]

BATCHES_OF_EARLIER_VERSIONS = (
    "this version takes as many points from each scene of a batch, and earlier ones took more from larger scenes"
)
FIXED_SCENE_SETTINGS = (
    *FIXED_SETTINGS,
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
)
"""Settings that no task on scenes can change after a run has started."""


def num_channels(features: Iterable[str]) -> int:
    """Total number of channels of these features of a point."""
    return sum(FEATURE_CHANNELS.get(feature, 1) for feature in features)


class SceneDataConfig(DataConfig):
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
    features: FeatureNames = Field(
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
    class_names: list[NotEmpty] | None = Field(
        None, description="names of the labels 0, 1, … in reports; null: their numbers"
    )
    ignore_labels: list[Label] | None = Field(
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
    def _check_source(self) -> SceneDataConfig:
        # A missing path is reported when scenes are needed: a shared configuration is valid without one.
        if self.source == "synthetic" and self.path is not None:
            raise rule_error("path", "null, because source is synthetic; omit source to use your own data")
        if self.source == "synthetic" and self.grid_size is not None:
            raise rule_error("grid_size", "null, because synthetic rooms have synthetic_points points")
        for key, features in self.feature_settings.items():
            others = [feature for feature in features if feature not in FEATURE_CHANNELS]
            for name in others:
                if meant := get_close_matches(name, FEATURE_CHANNELS, n=1, cutoff=0.85):
                    raise rule_error(key, f"{meant[0]} rather than {name}")
            if self.source == "synthetic" and others:
                known = ", ".join(FEATURE_CHANNELS)
                raise rule_error(key, f"only {known}, because synthetic rooms have no other properties")
        if self.class_names and len(set(self.class_names)) < len(self.class_names):
            raise rule_error("class_names", "unique names")
        for key, features in self.feature_settings.items():
            if len(set(features)) < len(features):
                raise rule_error(key, "each feature at most once")
        return self

    @property
    def feature_settings(self) -> dict[str, list[str]]:
        """The settings that list features, by key."""
        return {"features": self.features}

    @property
    def all_features(self) -> tuple[str, ...]:
        """The features that are needed for anything, each once."""
        return tuple(dict.fromkeys(name for names in self.feature_settings.values() for name in names))

    @property
    def feature_dim(self) -> int:
        """Total number of channels of `features`."""
        return num_channels(self.features)

    @property
    def properties(self) -> tuple[str, ...]:
        """The features that are properties of the files."""
        return tuple(feature for feature in self.all_features if feature not in FEATURE_CHANNELS)

    @property
    def choice(self) -> dict[str, Any]:
        """The settings that determine which scenes belong to which split."""
        split = self.split
        return {
            "shares": (split.train, split.val, split.test),
            "max_scenes": {"train": self.max_train_scenes, "val": self.max_val_scenes, "test": self.max_test_scenes},
        }

    @property
    def folder(self) -> Path:
        """The folder of the scenes, if `source` is `folder`.

        Raises:
            ConfigError: `path` is not set.
        """
        if self.path is None:
            raise ConfigError(
                "data.path is not set, but data.source is folder",
                hint="set it with --set data.path=DIR, or try --set data.source=synthetic",
            )
        return Path(self.path)

    @property
    def preparation(self) -> dict[str, Any]:
        """The settings that determine how a scene is prepared."""
        names = ("normal_neighbors", "max_depth", "min_region_points", "grid_size", "mesh_points")
        settings = {name: getattr(self, name) for name in names}
        return {**settings, "geometry": "geometry" in self.all_features, "properties": self.properties}


class SceneModelConfig(ModelConfig):
    """The network."""

    hidden_dim: Channels = Field(96, description="channels of projected point features")
    output_dim: Channels = Field(96, description="channels of region and point features")
    encoder_hidden_dims: Annotated[list[Channels], Field(min_length=1, max_length=16)] = Field(
        [64, 128], description="hidden channels of the region encoder, layer by layer"
    )
    propagator_hidden_dim: Channels = Field(
        128, description="hidden channels of the propagation from a region to its children"
    )
    aggregation: Literal["max", "mean", "attention"] = Field(
        "max", description="how the features of child regions are aggregated into their parent's"
    )
    pooling: Literal["max", "mean"] = Field("max", description="how the points of a region are pooled into one feature")
    num_heads: Count = Field(4, description="attention heads, a divisor of output_dim (aggregation: attention)")
    relative_propagation: bool = Field(
        False,
        description="whether a region passes its feature on to its points with coordinates relative to its center "
        "instead of those in the scene",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time, same results"
    )

    @model_validator(mode="after")
    def _check_heads(self) -> SceneModelConfig:
        if self.aggregation == "attention" and self.output_dim % self.num_heads:
            raise rule_error("num_heads", f"a divisor of output_dim ({self.output_dim})")
        if self.weights == "default":
            raise rule_error("weights", "none or a path, because there are no pretrained weights to download")
        return self

    @property
    def encoder_sizes(self) -> dict[str, Any]:
        """The arguments of the encoder, without the channels of the input."""
        return {name: getattr(self, name) for name in SceneModelConfig.model_fields if name != "weights"}
