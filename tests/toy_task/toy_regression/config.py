"""The settings of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from dbbd_cli.config.sections import (
    FIXED_SETTINGS,
    CheckpointConfig,
    Count,
    DataConfig,
    ModelConfig,
    NotEmpty,
    TaskConfig,
    is_set,
    rule_error,
    section,
)

SAMPLE_UNIT = "rows"
PROGRESS_METRICS = ("loss", "mae")


class ToyDataConfig(DataConfig):
    """Where the rows come from."""

    source: Literal["csv", "synthetic"] = Field(
        "synthetic", description="csv: a table; synthetic: generated rows; if omitted, path implies csv"
    )
    target: NotEmpty = Field("y", description="column to predict; all others are features")

    @model_validator(mode="before")
    @classmethod
    def _path_implies_csv(cls, values: Any) -> Any:
        implied = isinstance(values, Mapping) and is_set(values, "path") and not is_set(values, "source")
        return {**values, "source": "csv"} if implied else values

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> ToyDataConfig:
        if self.source == "csv" and self.path is None:
            raise rule_error("path", "a path, because source is csv")
        return self


class ToyModelConfig(ModelConfig):
    """The network."""

    hidden_dim: Count = Field(16, description="channels of the hidden layer")
    weights: Literal["none"] = Field("none", description="none: random")


class ToyCheckpointConfig(CheckpointConfig):
    """Which epoch is best."""

    metric: Literal["loss", "mae", "r2"] = Field("loss", description="validation metric that decides")


class ToyConfig(TaskConfig):
    """A run that fits a table."""

    fixed_settings: ClassVar[tuple[str, ...]] = (*FIXED_SETTINGS, "data.target", "model")

    task: Literal["toy_regression"] = Field(description="kind of training")
    data: ToyDataConfig = section("the rows")
    model: ToyModelConfig = section("the network")
    checkpoint: ToyCheckpointConfig = section("what is saved to disk")
