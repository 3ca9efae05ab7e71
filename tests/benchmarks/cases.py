"""All cases with their targets and limits. Nothing heavy is imported here: each case runs in a separate process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from measure import Measured


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        name: its name.
        function: "module.function"; called with the number of repetitions and `settings`.
        unit: unit of the score.
        better: whether higher or lower scores are better.
        target: the desired score; None: the case is shown for comparison.
        limit: a worse score is a failure.
        limit_mb: limit on peak memory, MB.
        settings: further arguments of the function.
    """

    name: str
    function: str
    unit: str
    better: Literal["higher", "lower"] = "lower"
    target: float | None = None
    limit: float | None = None
    limit_mb: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def measure(self, repeat: int) -> Measured:
        """Run it in this process."""
        module, _, function = self.function.partition(".")
        measured = getattr(import_module(module), function)(repeat, **self.settings)
        assert isinstance(measured, Measured)
        return measured


def _images(name: str, function: str, unit: str, target: float | None, limit: float | None, **settings: Any) -> Case:
    return Case(name, f"image_cases.{function}", unit, "higher", target, limit, settings=settings)


def _scenes(name: str, function: str, unit: str, target: float, limit: float, **settings: Any) -> Case:
    limit_mb = settings.pop("limit_mb", None)
    return Case(name, f"scene_cases.{function}", unit, "lower", target, limit, limit_mb, settings)


def _start(name: str, *arguments: str, **settings: Any) -> Case:
    return Case(
        name, "start_cases.start", "x Typer", "lower", 1.3, 1.6, settings={"arguments": list(arguments), **settings}
    )


CASES = (
    _images("qr_cnn_step_fp32", "step", "% of G", 65, 50, precision="fp32"),
    _images("qr_cnn_step_bf16", "step", "% of B", 55, 42, precision="bf16"),
    _images("qr_cnn_step_plain", "plain_step", "% of G", None, None),
    _images("qr_cnn_inference_fp32", "inference", "% of G", None, None, precision="fp32"),
    _images("qr_cnn_inference_bf16", "inference", "% of B", None, None, precision="bf16"),
    Case("qr_cnn_epoch_wait", "image_cases.epoch_wait", "% of step", "lower", 2, 2.5),
    Case("image_cache", "data_cases.image_cache", "x PNG", "higher", 10, 7.5),
    Case("index_200k", "data_cases.index_200k", "s", "lower", 60, 60, 1500),
    _scenes("dbbd_step_depth3_fp32", "step", "s x G", 100, 125, max_depth=3, limit_mb=2000),
    _scenes("dbbd_step_depth3_bf16", "step", "s x G", 65, 81, max_depth=3, precision="bf16", limit_mb=2000),
    _scenes("dbbd_step_depth4_fp32", "depth", "x depth 3", 1.4, 1.75),
    _scenes("dbbd_step_depth4_bf16", "depth", "x depth 3", 1.4, 1.75, precision="bf16"),
    _scenes("dbbd_step_small", "step", "s x G", 25, 31, max_depth=2, small_mode=True, limit_mb=2000),
    Case("dbbd_points_5k", "scene_cases.base", "s x G", settings={"max_depth": 4, "num_points": 5_000}),
    _scenes("dbbd_points_25k", "points", "x 5k", 1.1, 1.4, num_points=25_000, base_points=5_000),
    _scenes("dbbd_points_100k", "points", "x 25k", 1.1, 1.4, num_points=100_000, base_points=25_000),
    _scenes("dbbd_points_200k", "points", "x 25k", 1.1, 1.4, num_points=200_000, base_points=25_000),
    Case("dbbd_scenes_1", "scene_cases.base", "s x G", settings={"max_depth": 3}),
    _scenes("dbbd_scenes_4", "scenes", "x 1 scene", 1.1, 1.4, num_scenes=4),
    Case("tree_150k", "data_cases.tree_150k", "s", "lower", 1, 1.25),
    Case("url_train", "url_cases.train", "s x G", "lower", 10_000, 19_400, 2000),
    Case("url_predict", "url_cases.predict", "ms x G", "lower", 50, 160),
    Case("url_codes", "url_cases.codes", "x ZXing", "lower"),
    _start("help", "--help"),
    _start("command_help", "train", "--help"),
    _start("completion", complete="dbbd\ntrain\n--se"),
    _start("completion_key", complete="dbbd\ntrain\n--set\ntraining.ep"),
    _start("config_error", "train", "--config", "qr_cnn", "--set", "trainig.epochs=3", exit_code=2),
    Case("plot", "start_cases.plot", "s"),
    Case("smoke_first_step", "start_cases.smoke_first_step", "s", "lower", 6, 7.5),
    Case("checkpoint_pause", "checkpoint_cases.pause", "s", "lower", 0.5, 0.75),
    Case("gpu_qr_cnn_epoch", "image_cases.epoch_on_gpu", "images/s", "higher", 10_000, 7_500),
    Case("gpu_dbbd_step", "scene_cases.step_on_gpu", "ms", "lower", 40, 50),
)
