"""The settings of image classification."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dbbd_cli.config.sections import Count, Fraction, NotEmpty, Section, is_set, rule_error, section
from dbbd_cli.model.images.catalog import COMMON_MODELS, model_input
from dbbd_cli.tasks.classifier_config import ClassifierConfig, ClassifierDataConfig, ClassifierModelConfig

SAMPLE_UNIT = "images"


class AugmentConfig(Section):
    """Augmentation of training images. There are no flips: a mirrored QR code is not a QR code."""

    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = Field(5.0, description="maximum rotation, degrees")
    brightness: Fraction = Field(0.2, description="brightness is multiplied by a random factor within 1 ± this")
    contrast: Fraction = Field(0.2, description="contrast is multiplied by a random factor within 1 ± this")


class ImageDataConfig(ClassifierDataConfig):
    """Where the images come from and how they become batches."""

    source: Literal["folder", "classes", "table", "shards", "urls", "synthetic"] = Field(
        "synthetic",
        description="folder: one subfolder per class; classes: a folder for each class; "
        "table: a CSV or Parquet file of path and label; shards: tar files of images and classes; "
        "urls: one of URL and label, rendered as QR codes; synthetic: generated URLs, rendered as QR codes; "
        "if omitted, path implies folder, shards for .tar files or urls for another file, and classes implies classes",
    )
    sample_per_class: Count | None = Field(
        5000, description="maximum number of samples drawn from each class; null: all"
    )
    image_size: Annotated[int, Field(ge=32, le=1024)] | None = Field(
        None,
        description="height and width of the model's input, pixels, a multiple of 8 for qr_cnn; "
        "null: the model's own size, 224 for most",
    )
    augment: AugmentConfig = section("augmentation of training images")
    cache_dir: NotEmpty | None = Field(
        None, description="folder for decoded images; null: $DBBD_CACHE_DIR, or the user's cache folder"
    )

    @model_validator(mode="after")
    def _only_urls_have_hosts_and_are_cleaned(self) -> ImageDataConfig:
        if self.source in ("urls", "synthetic"):
            return self
        if self.split.group == "host":
            raise rule_error("split.group", f"none, because only URLs have hosts and source is {self.source}")
        changed = next((name for name, value in self.urls if value != "keep"), None)
        if changed is not None:
            raise rule_error(f"urls.{changed}", f"keep, because only URLs are cleaned and source is {self.source}")
        return self


class ImageModelConfig(ClassifierModelConfig):
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


class ImageClassificationConfig(ClassifierConfig):
    """A run that trains an image classifier."""

    fixed_settings: ClassVar[tuple[str, ...]] = (*ClassifierConfig.fixed_settings, "data.image_size")
    bf16_on_cpu: ClassVar[bool] = True

    task: Literal["image_classification"] = Field(description="kind of training")
    data: ImageDataConfig = section("the images")
    model: ImageModelConfig = section("the network")

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
