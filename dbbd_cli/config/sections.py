"""The settings that all tasks share: type, range, default, meaning and unit of each.

Unknown keys are errors. A rule across fields is part of the section that it is about, and names the offending field
with `rule_error`, so that the loader can point at the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
NotEmpty = Annotated[str, Field(min_length=1)]

FIXED_SETTINGS = (
    "task",
    "seed",
    "run.name",
    "run.runs_dir",
    "data.source",
    "data.split",
    "data.on_error",
    "training.optimizer",
    "checkpoint.metric",
)
"""Settings that cannot change after a run has started. Each task adds its own."""


class Section(BaseModel):
    """Base of all sections: strict types, no unknown keys, immutable."""

    # The validator is built when the first configuration is read, and once for all sections of a task together.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


def settings(schema: type[Section]) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every setting of a schema, in order: its key and its field. Sections are not settings."""
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from (((name, *inner), setting) for inner, setting in settings(kind))
        else:
            yield (name,), field


def types_at(schema: type[Section], key: str) -> list[Any]:
    """The types that the value of a dotted key may have; empty if the schema has no such key."""
    types: list[Any] = [schema]
    for part in key.split("."):
        inner = []
        for kind in types:
            if get_origin(kind) is dict:
                inner += _alternatives(get_args(kind)[1])
            elif get_origin(kind) is None and issubclass(kind, Section) and part in kind.model_fields:
                inner += _alternatives(kind.model_fields[part].annotation)
        types = inner
    return types


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def section(description: str) -> Any:
    """Declare a section that may be omitted, and then has its defaults.

    The validator of the whole configuration makes them; a factory would need a validator of its own for each section.
    """
    return Field(default_factory=dict, validate_default=True, description=description)


def is_set(values: Mapping[str, Any], name: str) -> bool:
    """Whether a section has a value for a key, before validation."""
    return values.get(name) is not None


def rule_error(field: str, message: str) -> PydanticCustomError:
    """An error of a rule across fields, shown at `field` of the section that raises it.

    Args:
        field: the setting to change.
        message: what is expected there, such as "at most 3".
    """
    return PydanticCustomError("rule", "Input should be {message}", {"field": field, "message": message})


class RunConfig(Section):
    """Where a run is stored and what it runs on."""

    name: NotEmpty = Field("run", description="name of the run; its folder is <runs_dir>/<time>-<name>")
    runs_dir: NotEmpty = Field("runs", description="folder in which run folders are created")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        "auto",
        description="auto, cpu, cuda, cuda:N or mps; auto: the first available of cuda, mps, cpu",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="precision of the forward and backward pass; auto: bf16 if the device has instructions for it "
        "(CUDA; for tasks that gain by it also CPUs with AMX or AVX-512 BF16), otherwise fp32; a run keeps the choice "
        "of auto, also on other machines",
    )
    plots: bool = Field(True, description="draw training_history.png when training ends")
    log_every_steps: Count = Field(10, description="optimizer steps between step entries in history.jsonl")
    shard_model: bool = Field(
        False,
        description="divide weights, gradients and optimizer state among the processes (FSDP2), for networks that one "
        "device has no memory for; no effect in a single process",
    )
    process_timeout: Annotated[float, Field(gt=0.0, le=604_800.0)] = Field(
        1800.0,
        description="seconds that a process waits for the others that train with it, also while the first one prepares "
        "the data, before it gives up",
    )


class CheckpointConfig(Section):
    """When the state of a run is saved, and which epoch is best."""

    every_steps: Count | None = Field(
        None, description="optimizer steps between checkpoints within an epoch; null: only at the end of each epoch"
    )
    keep: Count = Field(2, description="number of latest checkpoints to keep, in addition to the best model")
    metric: NotEmpty = Field("loss", description="validation metric that decides which epoch is best")
    save_best: bool = Field(
        True, description="keep best_model.pth, the state after the best epoch (see checkpoint.metric)"
    )


class TrainingConfig(Section):
    """The optimization."""

    epochs: Count = Field(10, description="passes over the training split")
    batch_size: Count = Field(32, description="samples per batch")
    accumulate_batches: Count = Field(1, description="batches whose gradients are accumulated for one optimizer step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="optimizer; sgd uses momentum 0.9")
    learning_rate: Positive = Field(1e-3, description="learning rate after warm-up")
    scale_learning_rate: Literal["none", "sqrt", "linear"] = Field(
        "none",
        description="by what the learning rate of a new run in several processes, whose batches are larger, is "
        "multiplied: none: 1; sqrt: the square root of the number of processes; linear: that number",
    )
    weight_decay: NotNegative = Field(0.01, description="decoupled weight decay (L2 for sgd)")
    scheduler: Literal["reduce_on_plateau", "cosine", "step", "none"] = Field(
        "reduce_on_plateau", description="learning-rate schedule, updated after each epoch"
    )
    scheduler_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="factor of each reduction (reduce_on_plateau, step)"
    )
    scheduler_patience: Annotated[int, Field(ge=0)] = Field(
        3, description="epochs without a lower validation loss before a reduction (reduce_on_plateau)"
    )
    scheduler_step_size: Count = Field(10, description="epochs between reductions (step)")
    scheduler_epochs: Count | None = Field(
        None, description="length of the whole schedule, epochs (cosine); null: training.epochs"
    )
    min_lr: NotNegative = Field(1e-6, description="lower bound of the learning rate in any schedule")
    warmup_epochs: NotNegative = Field(
        0.0, description="epochs over which the learning rate rises linearly from near 0"
    )
    clip_grad_norm: Positive | None = Field(1.0, description="maximum norm of the gradient; null: no clipping")
    early_stopping_patience: Count | None = Field(
        None, description="epochs without improvement of checkpoint.metric before training stops; null: never"
    )
    early_stopping_min_delta: NotNegative = Field(
        0.0, description="how much better checkpoint.metric must be to count as an improvement for early stopping"
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="stop: a NaN or infinite loss or gradient ends the run; skip: its optimizer step is skipped",
    )
    max_skipped_steps: Count = Field(
        10, description="number of optimizer steps that a run may skip before it ends (on_nonfinite: skip)"
    )

    @model_validator(mode="after")
    def _check_rates(self) -> TrainingConfig:
        if self.min_lr > self.learning_rate:
            raise rule_error("min_lr", f"at most learning_rate ({self.learning_rate:g})")
        if self.warmup_epochs > self.epochs:
            raise rule_error("warmup_epochs", f"at most epochs ({self.epochs})")
        return self


class SplitConfig(Section):
    """How samples are divided into splits."""

    train: Fraction = Field(0.7, description="share of the training split")
    val: Fraction = Field(0.15, description="share of the validation split")
    test: Fraction = Field(0.15, description="share of the test split")

    @model_validator(mode="after")
    def _check_shares(self) -> SplitConfig:
        total = self.train + self.val + self.test
        if abs(total - 1.0) > 1e-6:
            raise rule_error("train", f"shares that sum to 1 (train + val + test is {total:g})")
        for field in ("train", "val", "test"):
            if getattr(self, field) == 0.0:
                raise rule_error(field, "greater than 0: every split is needed")
        return self


class DataConfig(Section):
    """Where the samples come from and how they become batches. Each task adds its sources and its own settings."""

    source: NotEmpty = Field("synthetic", description="where the samples come from")
    path: NotEmpty | None = Field(None, description="the folder or file of the samples")
    split: SplitConfig = section("shares of the splits")
    num_workers: Annotated[int, Field(ge=0, le=256)] = Field(
        0, description="number of processes that load batches; 0: load them in the training process"
    )
    worker_timeout: Annotated[float, Field(gt=0.0, le=604_800.0)] = Field(
        600.0, description="seconds to wait for a batch from a worker process"
    )
    cache_dir: NotEmpty | None = Field(
        None, description="folder for prepared samples; null: $DBBD_CACHE_DIR, or the user's cache folder"
    )


class ModelConfig(Section):
    """The network."""

    weights: NotEmpty = Field("none", description="none: random; or the path of weights to start from")


class TaskConfig(Section):
    """The settings of a run. Each task extends the sections that differ."""

    fixed_settings: ClassVar[tuple[str, ...]] = FIXED_SETTINGS
    """Settings that cannot change after a run has started."""
    location_settings: ClassVar[tuple[str, ...]] = ("data.path",)
    """Settings that say where the data is: each a path, or paths by name."""
    bf16_on_cpu: ClassVar[bool] = False
    """Whether `run.precision: auto` chooses bf16 on CPUs that have instructions for it."""
    batches_of_earlier_versions: ClassVar[str] = ""
    """How batches of several samples differ from those of versions that stored no size of batches; "" if not."""

    task: NotEmpty = Field(description="kind of training")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(42, description="seed of all random choices")
    run: RunConfig = section("where the run is stored and what it runs on")
    data: DataConfig = section("the samples")
    model: ModelConfig = section("the network")
    training: TrainingConfig = section("the optimization")
    checkpoint: CheckpointConfig = section("what is saved to disk")

    @property
    def path_settings(self) -> tuple[str, ...]:
        """Settings that hold a path, or paths by name."""
        return ("run.runs_dir", *self.location_settings, "data.cache_dir", "model.weights")

    @property
    def loading_settings(self) -> tuple[str, ...]:
        """Settings that say where the data is and how it is loaded, which changes no result."""
        return (*self.location_settings, "data.cache_dir", "data.num_workers", "data.worker_timeout")

    @property
    def is_synthetic(self) -> bool:
        """Whether the samples are generated, so that the results say nothing about real data."""
        return self.data.source == "synthetic"


def to_plain(config: Section) -> dict[str, Any]:
    """The configuration as plain values, defaults included, ready for YAML, JSON or a checkpoint."""
    return config.model_dump(mode="json")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def changed_settings(
    before: TaskConfig, after: TaskConfig, within: Iterable[str] | None = None
) -> dict[str, tuple[Any, Any]]:
    """The settings that differ between two configurations, by dotted key, with both values.

    Args:
        before: a configuration.
        after: another one of the same task.
        within: settings and sections to compare. None: all of them.
    """
    one, other = flat(to_plain(before)), flat(to_plain(after))
    sections = ("",) if within is None else tuple(f"{key}." for key in within)
    return {
        key: (one.get(key), other.get(key))
        for key in dict.fromkeys([*one, *other])
        if one.get(key) != other.get(key) and f"{key}.".startswith(sections)
    }
