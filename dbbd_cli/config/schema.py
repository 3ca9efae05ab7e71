"""Every setting of a run: its type, range, default, meaning and unit.

An unknown key is an error. A rule across fields stands in the section that it speaks of, and names its field
through the error context (`{"field": ...}`), so that the loader can point at the line.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
NotEmpty = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the configuration: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def rule_error(field: str, message: str) -> PydanticCustomError:
    """An error of a rule across fields, to be shown at `field` of the section that raises it."""
    return PydanticCustomError("rule", "{message}", {"field": field, "message": message})


class RunConfig(Section):
    """Where a run is kept and what it runs on."""

    name: NotEmpty = Field("run", description="name of the run; its folder is <runs_dir>/<time>-<name>")
    runs_dir: NotEmpty = Field("runs", description="folder in which run folders are made")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps; auto takes cuda, then mps, then cpu, and says which"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="arithmetic of forward and backward; auto is bf16 on CUDA devices that have it, else fp32"
    )
    plots: bool = Field(True, description="draw training_history.png when training ends")
    log_every_steps: Count = Field(10, description="optimizer steps between two step entries in history.jsonl")


class CheckpointConfig(Section):
    """When the state of a run is written to disk."""

    every_steps: Count | None = Field(
        None, description="optimizer steps between checkpoints inside an epoch; null: only when an epoch ends"
    )
    save_best: bool = Field(True, description="keep best_model.pth, the state with the lowest validation loss")


class TrainingConfig(Section):
    """The optimisation."""

    epochs: Count = Field(10, description="passes over the training split")
    batch_size: Count = Field(32, description="samples per batch")
    accumulate_batches: Count = Field(1, description="batches whose gradients make one optimizer step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.9")
    learning_rate: Positive = Field(1e-3, description="learning rate after warm-up")
    weight_decay: NotNegative = Field(0.01, description="decoupled weight decay (L2 for sgd)")
    scheduler: Literal["reduce_on_plateau", "cosine", "step", "none"] = Field(
        "reduce_on_plateau", description="how the learning rate falls, epoch by epoch"
    )
    scheduler_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="factor of each reduction (reduce_on_plateau, step)"
    )
    scheduler_patience: Annotated[int, Field(ge=0)] = Field(
        3, description="epochs without a lower validation loss before a reduction (reduce_on_plateau)"
    )
    scheduler_step_size: Count = Field(10, description="epochs between reductions (step)")
    min_lr: NotNegative = Field(1e-6, description="learning rate that no schedule goes below")
    warmup_epochs: NotNegative = Field(0.0, description="epochs over which the learning rate rises from near 0")
    clip_grad_norm: Positive | None = Field(1.0, description="largest norm of the gradient; null: no clipping")
    early_stopping_patience: Count | None = Field(
        None, description="epochs without improvement of the validation loss before training stops; null: never"
    )
    early_stopping_min_delta: NotNegative = Field(
        0.0, description="how much lower the validation loss must be to count as an improvement for early stopping"
    )

    @model_validator(mode="after")
    def _rates_fit(self) -> TrainingConfig:
        if self.min_lr > self.learning_rate:
            raise rule_error("min_lr", f"at most learning_rate ({self.learning_rate:g})")
        if self.warmup_epochs > self.epochs:
            raise rule_error("warmup_epochs", f"at most epochs ({self.epochs})")
        return self


class ImageTrainingConfig(TrainingConfig):
    """The optimisation of a classifier."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the target spread over all classes (training loss only)"
    )


class SplitConfig(Section):
    """How samples are divided, class by class."""

    train: Fraction = Field(0.7, description="share of the training split")
    val: Fraction = Field(0.15, description="share of the validation split")
    test: Fraction = Field(0.15, description="share of the test split")
    group: Literal["none", "host"] = Field(
        "none", description="host: all URLs of one host fall in the same split (sources urls and synthetic)"
    )

    @model_validator(mode="after")
    def _shares_make_a_whole(self) -> SplitConfig:
        total = self.train + self.val + self.test
        if abs(total - 1.0) > 1e-6:
            raise rule_error("train", f"shares that sum to 1 (train + val + test is {total:g})")
        for field in ("train", "val", "test"):
            if getattr(self, field) == 0.0:
                raise rule_error(field, "greater than 0: every split is needed")
        return self


class AugmentConfig(Section):
    """Random changes to training images. Flips are left out: a mirrored QR code is not a QR code."""

    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = Field(5.0, description="largest rotation, degrees")
    brightness: Fraction = Field(0.2, description="brightness is scaled by a factor in 1 ± this")
    contrast: Fraction = Field(0.2, description="contrast is scaled by a factor in 1 ± this")


class ImageDataConfig(Section):
    """Where the pictures come from and how they become batches."""

    source: Literal["folder", "classes", "urls", "synthetic"] = Field(
        "synthetic",
        description="folder: one sub-folder per class; classes: a folder for each class; "
        "urls: a CSV of URL and label, rendered as QR codes; synthetic: made-up URLs, rendered as QR codes",
    )
    path: NotEmpty | None = Field(None, description="the folder (source folder) or the CSV file (source urls)")
    classes: dict[NotEmpty, NotEmpty] | None = Field(None, description="class name to folder (source classes)")
    url_column: NotEmpty = Field("url", description="name of the CSV column with the URL")
    label_column: NotEmpty = Field("label", description="name of the CSV column with the class")
    sample_per_class: Count | None = Field(5000, description="samples drawn from each class; null: all")
    split: SplitConfig = Field(default_factory=SplitConfig, description="shares of the splits")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="an unreadable file ends the run (fail), or is left out, counted and listed (skip)"
    )
    image_size: Annotated[int, Field(ge=32, le=1024, multiple_of=8)] = Field(
        224, description="height and width of the network's input, pixels"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="changes to training images")
    positive_class: NotEmpty | None = Field(
        None, description="class that counts as positive with two classes; null: the last one"
    )
    num_workers: Annotated[int, Field(ge=0, le=256)] = Field(
        0, description="processes that load batches; 0 loads them in the training process"
    )
    cache_dir: NotEmpty | None = Field(
        None, description="folder for decoded images; null: the user's cache folder, or $DBBD_CACHE_DIR"
    )

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> ImageDataConfig:
        if self.source in ("folder", "urls") and self.path is None:
            raise rule_error("path", f"a path, because source is {self.source}")
        if self.source == "classes" and len(self.classes or {}) < 2:
            raise rule_error("classes", "at least two classes with a folder each, because source is classes")
        if self.source != "classes" and self.classes is not None:
            raise rule_error("classes", f"null, because source is {self.source}")
        if self.source == "synthetic" and self.path is not None:
            raise rule_error("path", "null, because source is synthetic; to use your own data set source as well")
        if self.split.group == "host" and self.source not in ("urls", "synthetic"):
            raise rule_error("split.group", f"none, because only URLs have hosts and source is {self.source}")
        return self


class ImageModelConfig(Section):
    """The classifier."""

    name: Literal["qr_cnn", "resnet18", "resnet34", "resnet50", "efficientnet_b0", "mobilenet_v3_small"] = Field(
        "qr_cnn", description="architecture; all but qr_cnn come from torchvision"
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.5, description="dropout before the linear layers")
    weights: NotEmpty = Field(
        "none", description="none: random; default: pretrained on ImageNet, downloaded; or the path of a state dict"
    )

    @model_validator(mode="after")
    def _weights_exist(self) -> ImageModelConfig:
        if self.name == "qr_cnn" and self.weights == "default":
            raise rule_error("weights", "none or a path, because qr_cnn has no pretrained weights to download")
        return self


class ImageClassificationConfig(Section):
    """A run that trains an image classifier."""

    task: Literal["image_classification"] = Field(description="kind of training")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(42, description="seed of every random choice")
    run: RunConfig = Field(default_factory=RunConfig, description="where and on what")
    data: ImageDataConfig = Field(default_factory=ImageDataConfig, description="the pictures")
    model: ImageModelConfig = Field(default_factory=ImageModelConfig, description="the network")
    training: ImageTrainingConfig = Field(default_factory=ImageTrainingConfig, description="the optimisation")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="what is kept on disk")


Config = ImageClassificationConfig
"""Any run's configuration. The field `task` tells which schema a file follows."""

SCHEMAS: dict[str, type[Config]] = {"image_classification": ImageClassificationConfig}
"""The schema of each task."""


def to_plain(config: Section) -> dict[str, Any]:
    """The configuration as plain values, defaults included, ready for YAML, JSON or a checkpoint."""
    return config.model_dump(mode="json")
