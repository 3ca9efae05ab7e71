"""The settings of segmentation."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dbbd_cli.config.sections import (
    CheckpointConfig,
    Count,
    Fraction,
    NotEmpty,
    NotNegative,
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
    FeatureNames,
    Label,
    SceneDataConfig,
    SceneModelConfig,
)
from dbbd_cli.tasks.scene_prediction_config import ScenePredictionConfig

PROGRESS_METRICS = ("loss", "miou", "overall_accuracy")


class AugmentationConfig(Section):
    """Random changes of the training scenes."""

    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = Field(
        180.0, description="maximum rotation about the vertical axis, in degrees; normals are rotated too"
    )
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.1, description="scenes are scaled by a random factor within 1 ± this"
    )
    flip: bool = Field(True, description="mirror every second scene, chosen at random")
    jitter: NotNegative = Field(
        0.0, description="standard deviation of the noise added to each coordinate, in the scene's unit"
    )
    point_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="share of the points that a step hides: their features are 0, and they do not count in the loss",
    )
    color_jitter: Fraction = Field(
        0.2, description="colors are multiplied by a random factor within 1 ± this, and shifted by up to ± half of it"
    )


class SegmentationDataConfig(SceneDataConfig):
    """Where the scenes come from, and how they become batches."""

    features: FeatureNames = Field(
        ["geometry"], description="per-point features that the encoder sees besides coordinates; see dbbd"
    )
    head_features: FeatureNames = Field(
        ["geometry"], description="features of a point that are classified along with those of its regions"
    )
    labels: list[Label] | None = Field(
        None,
        description="the labels that are classes, ascending; null: all that occur, without data.ignore_labels; points "
        "with other labels are ignored",
    )
    augment: AugmentationConfig = section("random augmentation of training scenes")

    @property
    def feature_settings(self) -> dict[str, list[str]]:
        """The settings that list features, by key."""
        return {"features": self.features, "head_features": self.head_features}

    @model_validator(mode="after")
    def _check_labels(self) -> SegmentationDataConfig:
        if self.labels is not None and (len(self.labels) < 2 or sorted(set(self.labels)) != self.labels):
            raise rule_error("labels", "at least two labels, ascending")
        return self


class SegmentationModelConfig(SceneModelConfig):
    """The network."""

    hidden_dim: Channels = Field(64, description="channels of projected point features")
    output_dim: Channels = Field(64, description="channels of region features")
    encoder_hidden_dims: Annotated[list[Channels], Field(min_length=1, max_length=16)] = Field(
        [32, 64], description="hidden channels of the region encoder, layer by layer"
    )
    propagator_hidden_dim: Channels = Field(
        64, description="hidden channels of the propagation from a region to its children"
    )
    branches: Literal["both", "g2l", "l2g", "none"] = Field(
        "l2g",
        description="branches of the encoder whose region features the head sees: g2l (from the scene down), l2g (up), "
        "both, or none",
    )
    region_means: bool = Field(
        True, description="whether the head also sees the mean of the encoded head_features over each region"
    )
    first_level: Annotated[int, Field(ge=0, le=32)] = Field(
        2,
        description="level of the tree from which on the head sees regions; those above are few and large: with few "
        "labeled scenes, they tell scenes apart rather than classes",
    )
    head_hidden_dim: Channels = Field(64, description="hidden channels of the head")
    head_members: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="members of the ensemble that the head is; they share most weights"
    )
    head_pieces: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="pieces, between quantiles of the training data, in which the head encodes each feature"
    )
    forest_trees: Annotated[int, Field(ge=0, le=256)] = Field(
        24, description="random trees on head_features, fitted before training, that join in evaluation; 0: none"
    )
    forest_share: Fraction = Field(0.5, description="weight of the probabilities of these trees")
    linear_share: Fraction = Field(
        0.5,
        description="weight of the probabilities of a linear classifier, compared with those of head and trees; it is "
        "fitted before training to what the head sees (with freeze: encoder, also of the encoder), and joins in "
        "evaluation; 0: none",
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.3, description="dropout probability in the head")
    weights: NotEmpty = Field(
        "none",
        description="none: random; or a run (its best model) or checkpoint of dbbd or segmentation whose encoder to "
        "start from; sizes of the encoder, data.features and data.max_depth are then taken from it, and so are "
        "branches and region_means unless they are set: both branches of a run of dbbd",
    )


class SegmentationLossConfig(Section):
    """The loss of a step."""

    class_weights: Literal["none", "inverse_sqrt", "inverse"] = Field(
        "inverse_sqrt",
        description="weight of a class in the cross-entropy, from its share of the training points: none (1), "
        "inverse_sqrt or inverse",
    )
    lovasz_weight: NotNegative = Field(
        0.5, description="weight of the Lovász-softmax loss, which stands for the mean IoU"
    )
    point_samples: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        8192,
        description="number of labeled points classified per training batch, the same number of each scene",
    )


class SegmentationTrainingConfig(TrainingConfig):
    """Optimization."""

    epochs: Count = Field(100, description="passes over the training split")
    batch_size: Count = Field(2, description="scenes per batch")
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        2e-3, description="learning rate after warm-up"
    )
    weight_decay: NotNegative = Field(0.05, description="decoupled weight decay (L2 for sgd)")
    scheduler: Literal["reduce_on_plateau", "cosine", "step", "none"] = Field(
        "cosine", description="learning-rate schedule, updated after each epoch"
    )
    freeze: Literal["none", "encoder"] = Field("none", description="encoder: train only the head")
    encoder_lr_factor: NotNegative = Field(
        1.0, description="the encoder trains at the learning rate times this, such as 0.1 with model.weights"
    )


class SegmentationCheckpointConfig(CheckpointConfig):
    """When the state of a run is saved, and which epoch is best."""

    metric: Literal["miou", "loss", "mean_accuracy", "overall_accuracy"] = Field(
        "miou", description="validation metric that decides which epoch is best (the first on ties)"
    )


class SegmentationConfig(TaskConfig):
    """A run that learns to segment scenes."""

    batches_of_earlier_versions = BATCHES_OF_EARLIER_VERSIONS
    fixed_settings: ClassVar[tuple[str, ...]] = (
        *FIXED_SCENE_SETTINGS,
        "data.head_features",
        "data.labels",
        "data.ignore_labels",
        "data.augment",
        "loss",
        "training.batch_size",
        "training.freeze",
        "training.encoder_lr_factor",
        *(f"model.{name}" for name in SegmentationModelConfig.model_fields if name != "gradient_checkpointing"),
    )

    task: Literal["segmentation"] = Field(description="kind of training")
    data: SegmentationDataConfig = section("scenes")
    model: SegmentationModelConfig = section("network")
    loss: SegmentationLossConfig = section("loss")
    training: SegmentationTrainingConfig = section("optimization")
    checkpoint: SegmentationCheckpointConfig = section("checkpoints")
    predict: ScenePredictionConfig = section("predictions")
