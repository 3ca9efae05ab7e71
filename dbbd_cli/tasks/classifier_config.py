"""The settings that the tasks that train classifiers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from dbbd_cli.config.sections import (
    FIXED_SETTINGS,
    CheckpointConfig,
    Count,
    DataConfig,
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
from dbbd_cli.core.paths import is_url
from dbbd_cli.data.images.shard_paths import looks_like_shards
from dbbd_cli.data.table import is_table
from dbbd_cli.data.urls.cleaning import UrlCleaning

PROGRESS_METRICS = ("loss", "accuracy")
"""The metrics that summarize an epoch; the others are only logged."""


class ClassifierTrainingConfig(TrainingConfig):
    """The optimization of a classifier."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the target distributed over all classes (training loss only)"
    )


class ClassifierSplitConfig(SplitConfig):
    """How samples are divided, class by class."""

    group: Literal["none", "host"] = Field(
        "none",
        description="host (sources urls and synthetic only): keep all URLs of a host in the same split, so that hosts "
        "cannot be memorized",
    )


class ClassifierDataConfig(DataConfig):
    """Where the samples of each class come from."""

    source: Literal["folder", "classes", "table", "shards", "urls", "synthetic"] = Field(
        "synthetic",
        description="folder: one subfolder per class; classes: a folder for each class; table: a CSV or Parquet file "
        "of path and label; urls: one of URL and label; "
        "synthetic: generated URLs; if omitted, path implies folder or, for a file, urls, and classes implies classes",
    )
    path: NotEmpty | None = Field(
        None,
        description="the folder (source folder), the file (sources table and urls), or the tar files (source shards): "
        "their folder, one of them, or a pattern such as a-{000..099}.tar; a path, or a URL (sources urls and shards)",
    )
    classes: dict[NotEmpty, NotEmpty] | None = Field(None, description="folder by class name (source classes)")
    url_column: NotEmpty = Field("url", description="name of the column with the URL (source urls)")
    path_column: NotEmpty = Field(
        "path", description="name of the column with the path, relative to the folder of the table (source table)"
    )
    label_column: NotEmpty = Field(
        "label", description="name of the column with the class; source shards: the key in .json"
    )
    split_column: NotEmpty | None = Field(
        "split",
        description="name of the column with the split: train, val or test; null, or if there is none: samples "
        "are divided by split (source table); source shards: the key in .json",
    )
    sample_per_class: Count | None = Field(
        None, description="maximum number of samples drawn from each class; null: all"
    )
    split: ClassifierSplitConfig = section("shares of the splits")
    urls: UrlCleaning = section("how URLs are changed before anything else sees them")
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="fail: an unusable sample ends the run; skip: it is left out and listed in splits.json"
    )
    positive_class: NotEmpty | None = Field(None, description="the positive one of two classes; null: the last")

    @model_validator(mode="before")
    @classmethod
    def _source_follows(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or is_set(values, "source"):
            return values
        if isinstance(path := values.get("path"), str):
            source = _source_of(path)
            if source not in get_args(cls.model_fields["source"].annotation):
                raise rule_error("path", f"a folder or a table: {source} are read by task image_classification only")
            return {**values, "source": source}
        return {**values, "source": "classes"} if is_set(values, "classes") else values

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> ClassifierDataConfig:
        if self.source in ("folder", "table", "shards", "urls") and self.path is None:
            raise rule_error("path", f"a path, because source is {self.source}")
        if self.source in ("folder", "table") and is_url(self.path or ""):
            raise rule_error("path", f"no URL, because source is {self.source}; URLs are read by urls and shards")
        if self.source == "classes" and len(self.classes or {}) < 2:
            raise rule_error("classes", "at least two classes with a folder each, because source is classes")
        if self.source != "classes" and self.classes is not None:
            raise rule_error("classes", f"null, because source is {self.source}")
        if self.source == "synthetic" and self.path is not None:
            raise rule_error("path", "null, because source is synthetic; omit source to use your own data")
        return self


def _source_of(path: str) -> str:
    """The source that a path implies."""
    if looks_like_shards(path):
        return "shards"
    return "urls" if is_table(path) else "folder"


class ClassifierCheckpointConfig(CheckpointConfig):
    """When checkpoints are written, and which epoch is best."""

    metric: Literal["loss", "accuracy", "f1"] = Field(
        "loss",
        description="validation metric that decides which epoch is best (the first on ties): the lowest loss, or the "
        "highest accuracy or f1 (mean F1 over the classes); early stopping uses it too, but reduce_on_plateau "
        "always uses the loss",
    )


class ClassifierModelConfig(ModelConfig):
    """The classifier."""

    name: NotEmpty = Field(description="the network")


class ClassifierEvaluationConfig(Section):
    """How a classifier is evaluated."""

    false_positive_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.01,
        description="the false-positive rate that the decision threshold is chosen for, on the validation split (with "
        "two classes)",
    )


class ClassifierConfig(TaskConfig):
    """A run that trains a classifier."""

    fixed_settings: ClassVar[tuple[str, ...]] = (
        *FIXED_SETTINGS,
        "data.url_column",
        "data.path_column",
        "data.label_column",
        "data.split_column",
        "data.sample_per_class",
        "data.urls",
        "model",
    )
    location_settings: ClassVar[tuple[str, ...]] = ("data.path", "data.classes")

    data: ClassifierDataConfig = section("the samples")
    model: ClassifierModelConfig = section("the network")
    training: ClassifierTrainingConfig = section("the optimization")
    checkpoint: ClassifierCheckpointConfig = section("what is saved to disk")
    evaluation: ClassifierEvaluationConfig = section("the evaluation")
