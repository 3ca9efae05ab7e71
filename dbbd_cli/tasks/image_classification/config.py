"""The settings of image classification."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dbbd_cli.config.sections import (
    FIXED_SETTINGS,
    CheckpointConfig,
    ClassifierEvaluationConfig,
    Count,
    DataConfig,
    Fraction,
    ModelConfig,
    NotEmpty,
    Section,
    SplitConfig,
    TaskConfig,
    TrainingConfig,
    is_set,
    rule_error,
    section,
)
from dbbd_cli.data.urls.cleaning import UrlCleaning
from dbbd_cli.data.urls.table import is_table
from dbbd_cli.model.images.catalog import COMMON_MODELS, model_input

SAMPLE_UNIT = "images"
PROGRESS_METRICS = ("loss", "accuracy")
"""The metrics that summarize an epoch; the others are only logged."""


class ImageTrainingConfig(TrainingConfig):
    """The optimization of a classifier."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the target distributed over all classes (training loss only)"
    )


class ImageSplitConfig(SplitConfig):
    """How samples are divided, class by class."""

    group: Literal["none", "host"] = Field(
        "none", description="host: keep all URLs of a host in the same split (sources urls and synthetic)"
    )


class AugmentConfig(Section):
    """Augmentation of training images. There are no flips: a mirrored QR code is not a QR code."""

    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = Field(5.0, description="maximum rotation, degrees")
    brightness: Fraction = Field(0.2, description="brightness is multiplied by a random factor within 1 ± this")
    contrast: Fraction = Field(0.2, description="contrast is multiplied by a random factor within 1 ± this")


class ImageDataConfig(DataConfig):
    """Where the images come from and how they become batches."""

    source: Literal["folder", "classes", "urls", "synthetic"] = Field(
        "synthetic",
        description="folder: one subfolder per class; classes: a folder for each class; "
        "urls: a CSV of URL and label, rendered as QR codes; synthetic: generated URLs, rendered as QR codes; "
        "if omitted, path implies folder or, for a file, urls, and classes implies classes",
    )
    path: NotEmpty | None = Field(None, description="the folder (source folder) or the CSV file (source urls)")
    classes: dict[NotEmpty, NotEmpty] | None = Field(None, description="folder by class name (source classes)")
    url_column: NotEmpty = Field("url", description="name of the CSV column with the URL")
    label_column: NotEmpty = Field("label", description="name of the CSV column with the class")
    sample_per_class: Count | None = Field(
        5000, description="maximum number of samples drawn from each class; null: all"
    )
    split: ImageSplitConfig = section("shares of the splits")
    urls: UrlCleaning = section("how URLs are changed before they are rendered (sources urls and synthetic)")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="fail: an unreadable file ends the run; skip: it is left out and listed in splits.json"
    )
    image_size: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None,
        description="height and width of the model's input, pixels, a multiple of 8 for qr_cnn; "
        "null: the model's own size, 224 for most",
    )
    augment: AugmentConfig = section("augmentation of training images")
    positive_class: NotEmpty | None = Field(None, description="the positive one of two classes; null: the last")
    cache_dir: NotEmpty | None = Field(
        None, description="folder for decoded images; null: $DBBD_CACHE_DIR, or the user's cache folder"
    )

    @model_validator(mode="before")
    @classmethod
    def _source_follows(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or is_set(values, "source"):
            return values
        if isinstance(path := values.get("path"), str):
            return {**values, "source": "urls" if is_table(path) else "folder"}
        return {**values, "source": "classes"} if is_set(values, "classes") else values

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> ImageDataConfig:
        if self.source in ("folder", "urls") and self.path is None:
            raise rule_error("path", f"a path, because source is {self.source}")
        if self.source == "classes" and len(self.classes or {}) < 2:
            raise rule_error("classes", "at least two classes with a folder each, because source is classes")
        if self.source != "classes" and self.classes is not None:
            raise rule_error("classes", f"null, because source is {self.source}")
        if self.source == "synthetic" and self.path is not None:
            raise rule_error("path", "null, because source is synthetic; omit source to use your own data")
        if self.split.group == "host" and self.source not in ("urls", "synthetic"):
            raise rule_error("split.group", f"none, because only URLs have hosts and source is {self.source}")
        changed = next((name for name, value in self.urls if value != "keep"), None)
        if changed is not None and self.source not in ("urls", "synthetic"):
            raise rule_error(f"urls.{changed}", f"keep, because only URLs are cleaned and source is {self.source}")
        return self


class ImageModelConfig(ModelConfig):
    """The classifier."""

    name: Annotated[str, Field(pattern=r"^\w+$")] = Field(
        "qr_cnn",
        description="qr_cnn or a torchvision classifier; any name that torchvision.models.list_models knows, "
        "such as resnet18, convnext_tiny or vit_b_16",
        examples=list(COMMON_MODELS),
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.5, description="dropout probability before the linear layers of the classifier"
    )
    weights: NotEmpty = Field(
        "none", description="none: random; default: pretrained on ImageNet (downloaded); or the path of a state dict"
    )

    @model_validator(mode="after")
    def _model_exists(self) -> ImageModelConfig:
        try:
            model_input(self.name)
        except ValueError as error:
            raise rule_error("name", str(error)) from None
        if self.name == "qr_cnn" and self.weights == "default":
            raise rule_error("weights", "none or a path, because qr_cnn has no pretrained weights")
        return self


class ImageCheckpointConfig(CheckpointConfig):
    """When checkpoints are written, and which epoch is best."""

    metric: Literal["loss", "accuracy", "f1"] = Field(
        "loss",
        description="validation metric that decides which epoch is best (the first on ties): the lowest loss, or the "
        "highest accuracy or f1 (mean F1 over the classes); early stopping uses it too, but reduce_on_plateau "
        "always uses the loss",
    )


class ImageClassificationConfig(TaskConfig):
    """A run that trains an image classifier."""

    fixed_settings: ClassVar[tuple[str, ...]] = (
        *FIXED_SETTINGS,
        "data.url_column",
        "data.label_column",
        "data.sample_per_class",
        "data.urls",
        "data.image_size",
        "model",
    )

    location_settings: ClassVar[tuple[str, ...]] = ("data.path", "data.classes")
    bf16_on_cpu: ClassVar[bool] = True

    task: Literal["image_classification"] = Field(description="kind of training")
    data: ImageDataConfig = section("the images")
    model: ImageModelConfig = section("the network")
    training: ImageTrainingConfig = section("the optimization")
    checkpoint: ImageCheckpointConfig = section("what is saved to disk")
    evaluation: ClassifierEvaluationConfig = section("the evaluation")

    @model_validator(mode="before")
    @classmethod
    def _model_decides_image_size(cls, values: Any) -> Any:
        # Resolved here, so that a run stores it: with other pretrained weights, torchvision may change it.
        if not isinstance(values, Mapping):
            return values
        data, model = values.get("data", {}), values.get("model", {})
        if not isinstance(data, Mapping) or not isinstance(model, Mapping) or is_set(data, "image_size"):
            return values
        with suppress(ValueError, TypeError):  # reported at model.name
            name = model.get("name", ImageModelConfig.model_fields["name"].default)
            return {**values, "data": {**data, "image_size": model_input(name).size}}
        return values

    @model_validator(mode="after")
    def _size_fits_the_model(self) -> ImageClassificationConfig:
        if self.model.name == "qr_cnn" and self.image_size % 8:
            raise rule_error("data.image_size", "a multiple of 8, because model.name is qr_cnn")
        return self

    @property
    def image_size(self) -> int:
        """Height and width of the model's input, pixels."""
        return self.data.image_size or model_input(self.model.name).size
