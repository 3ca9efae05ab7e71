"""The settings of URL classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dbbd_cli.config.sections import (
    FIXED_SETTINGS,
    CheckpointConfig,
    ClassifierEvaluationConfig,
    Count,
    DataConfig,
    ModelConfig,
    NotEmpty,
    SplitConfig,
    TaskConfig,
    TrainingConfig,
    is_set,
    rule_error,
    section,
)
from dbbd_cli.data.urls.cleaning import UrlCleaningForText
from dbbd_cli.data.urls.table import is_table

SAMPLE_UNIT = "URLs"
PROGRESS_METRICS = ("loss", "accuracy")
"""The metrics that summarize an epoch; the others are only logged."""


class UrlTrainingConfig(TrainingConfig):
    """The optimization of a classifier."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the target distributed over all classes (training loss only)"
    )


class UrlSplitConfig(SplitConfig):
    """How samples are divided, class by class."""

    group: Literal["none", "host"] = Field(
        "host", description="host: keep all URLs of a host in the same split, so that hosts cannot be memorized"
    )


class UrlDataConfig(DataConfig):
    """Where the URLs come from."""

    source: Literal["urls", "folder", "classes", "synthetic"] = Field(
        "synthetic",
        description="urls: a CSV of URL and label; folder: pictures of QR codes, one subfolder per class; classes: a "
        "folder of such pictures for each class; synthetic: generated URLs; "
        "if omitted, path implies folder or, for a file, urls, and classes implies classes",
    )
    path: NotEmpty | None = Field(None, description="the folder (source folder) or the CSV file (source urls)")
    classes: dict[NotEmpty, NotEmpty] | None = Field(None, description="folder by class name (source classes)")
    url_column: NotEmpty = Field("url", description="name of the CSV column with the URL")
    label_column: NotEmpty = Field("label", description="name of the CSV column with the class")
    sample_per_class: Count | None = Field(
        None, description="maximum number of samples drawn from each class; null: all"
    )
    split: UrlSplitConfig = section("shares of the splits")
    urls: UrlCleaningForText = section("how URLs are changed before they are classified")
    on_error: Literal["fail", "skip"] = Field(
        "fail",
        description="whether an unusable row, or a picture without exactly one code that holds a URL, ends the run "
        "(fail) or is left out, counted and listed in splits.json (skip)",
    )
    positive_class: NotEmpty | None = Field(None, description="which of two classes is positive; null: the last")

    @model_validator(mode="before")
    @classmethod
    def _source_follows(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or is_set(values, "source"):
            return values
        if isinstance(path := values.get("path"), str):
            return {**values, "source": "urls" if is_table(path) else "folder"}
        return {**values, "source": "classes"} if is_set(values, "classes") else values

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> UrlDataConfig:
        if self.source in ("folder", "urls") and self.path is None:
            raise rule_error("path", f"a path, because source is {self.source}")
        if self.source == "classes" and len(self.classes or {}) < 2:
            raise rule_error("classes", "at least two classes with a folder each, because source is classes")
        if self.source != "classes" and self.classes is not None:
            raise rule_error("classes", f"null, because source is {self.source}")
        if self.source == "synthetic" and self.path is not None:
            raise rule_error("path", "null, because source is synthetic; leave source out to use your own data")
        return self


class UrlModelConfig(ModelConfig):
    """The network."""

    name: Literal["url_net"] = Field("url_net", description="the network")
    hash_bits: Annotated[int, Field(ge=10, le=20)] = Field(
        17, description="bits of the hash of an n-gram or a word; the network has 2^bits rows of weights for them"
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.3, description="dropout probability")


class UrlCheckpointConfig(CheckpointConfig):
    """When checkpoints are written, and which epoch is best."""

    metric: Literal["loss", "accuracy", "f1"] = Field(
        "loss",
        description="validation metric that decides which epoch is best, the first of equals: the lowest loss, or the "
        "highest accuracy or f1 (mean F1 over the classes)",
    )


class UrlClassificationConfig(TaskConfig):
    """A run that trains a classifier of URLs."""

    fixed_settings: ClassVar[tuple[str, ...]] = (
        *FIXED_SETTINGS,
        "data.url_column",
        "data.label_column",
        "data.sample_per_class",
        "data.urls",
        "model",
    )

    location_settings: ClassVar[tuple[str, ...]] = ("data.path", "data.classes")

    task: Literal["url_classification"] = Field(description="kind of training")
    data: UrlDataConfig = section("the URLs")
    model: UrlModelConfig = section("the network")
    training: UrlTrainingConfig = section("the optimization")
    checkpoint: UrlCheckpointConfig = section("what is saved to disk")
    evaluation: ClassifierEvaluationConfig = section("the evaluation")
