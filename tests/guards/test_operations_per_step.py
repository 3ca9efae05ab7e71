"""The number of operations of a training step does not grow with the data, and a step never waits for a GPU.

Counts, not times: they are the same on every machine and under any load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recorded_steps
import torch
from recorded_steps import Recording, record

from dbbd_cli.model.dbbd import encoder as dbbd_encoder
from dbbd_cli.model.dbbd import segment_ops as dbbd_segments
from dbbd_cli.model.images import conv, wide_linear
from dbbd_cli.tasks.dbbd.workload import DbbdWorkload
from dbbd_cli.tasks.image_classification import workload as image_classification
from dbbd_cli.tasks.image_classification.workload import ImageWorkload

# Today's counts and a little more. A Python loop over scenes, regions or images exceeds them at once.
MOST_OF_IMAGES = 380
MOST_OF_SCENES = 1700
"""At depth 2, that is, with three levels."""

Make = Callable[..., Any]
TASKS = ("image_classification", "dbbd")


@pytest.fixture(autouse=True)
def _whole_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # On the CPU the pass without gradient goes over pieces of the points, and augmentation and the gradients of weights
    # over groups of images, and products over blocks of inputs; their numbers grow with these on purpose.
    monkeypatch.setattr(dbbd_encoder, "_CHUNK_ROWS", 1 << 20)
    monkeypatch.setattr(conv, "_IMAGES_AT_ONCE", 1 << 20)
    monkeypatch.setattr(wide_linear, "_INPUTS_AT_ONCE", 1 << 20)
    monkeypatch.setattr(image_classification, "_IMAGES_AT_ONCE", 1 << 20)


@pytest.fixture
def recorded(tmp_path: Path, tiny_config: Make, tiny_point_config: Make) -> Callable[..., Recording]:
    """Record an epoch of a task that logs nothing between its steps; keyword arguments replace settings."""

    def run(task: str, *, precision: str = "fp32", **changes: object) -> Recording:
        make = tiny_config if task == "image_classification" else tiny_point_config
        folder = tmp_path / f"record-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        settings = {"run__log_every_steps": 1000, "training__epochs": 1, **changes}
        return record(make(**settings), folder, precision=precision)

    return run


def num_regions(recording: Recording) -> int:
    return sum(level.num_regions for level in recording.batches[1].regions.levels)


def test_the_number_of_operations_does_not_depend_on_the_number_of_images(recorded: Callable[..., Recording]) -> None:
    small, large = (
        recorded("image_classification"),
        recorded("image_classification", training__batch_size=16, data__sample_per_class=40),
    )
    assert len(large.batches[0].samples) == 2 * len(small.batches[0].samples)
    assert set(small.counts + large.counts[:-1]) == {small.counts[0]}
    assert small.counts[0] <= MOST_OF_IMAGES


def test_the_number_of_operations_does_not_depend_on_the_number_of_scenes(recorded: Callable[..., Recording]) -> None:
    one, two, five = (
        recorded("dbbd", training__batch_size=size, data__synthetic_scenes=scenes)
        for size, scenes in ((1, 8), (2, 8), (5, 25))
    )
    assert [len(each.batches[1].num_points) for each in (one, two, five)] == [1, 2, 5]
    assert set(two.counts) == {two.counts[0]}
    assert five.counts[0] == two.counts[0] <= MOST_OF_SCENES
    assert one.counts[0] < two.counts[0]  # a single root has no negatives


def test_the_number_of_operations_does_not_depend_on_points_and_regions(
    recorded: Callable[..., Recording],
) -> None:
    few = recorded("dbbd", data__synthetic_points=2000, data__min_region_points=60, data__max_depth=3)
    many = recorded("dbbd", data__synthetic_points=6000, data__min_region_points=8, data__max_depth=3)
    assert len(few.batches[1].regions.levels) == len(many.batches[1].regions.levels) == 4
    assert num_regions(many) > 5 * num_regions(few)
    assert many.counts == few.counts


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("task", TASKS)
def test_a_step_does_not_wait_for_the_device(
    task: str, precision: str, recorded: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dbbd_segments, "SYNC_FREE_DEVICES", ())
    waits = recorded(task, precision=precision).waits
    assert waits == [], "\n".join(waits)


class TestTheGuardItself:
    def test_detects_a_loop_over_scenes(
        self, recorded: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        to_device = DbbdWorkload.to_device

        def looped(self: DbbdWorkload, batch: Any, device: torch.device, *, train: bool) -> Any:
            parts = batch.coord.split(batch.num_points.tolist())
            batch = batch._replace(coord=torch.cat([part * 1.0 for part in parts]))
            return to_device(self, batch, device, train=train)

        monkeypatch.setattr(DbbdWorkload, "to_device", looped)
        two, four = (
            recorded("dbbd", training__batch_size=size, data__synthetic_scenes=scenes)
            for size, scenes in ((2, 8), (4, 16))
        )
        assert four.counts[0] == two.counts[0] + 2

    def test_detects_what_waits(self, recorded: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch) -> None:
        to_device = ImageWorkload.to_device
        planted: dict[str, Callable[[torch.Tensor], object]] = {
            "item": lambda x: x.sum().item(),
            "float": lambda x: float(x.sum()),
            "bool": lambda x: bool((x > 0).all()),
            "tolist": lambda x: x.sum().tolist(),
            "cpu": lambda x: x.cpu(),
            "to": lambda x: x.to("cpu"),
            "mask": lambda x: x[x > 0],
            "nonzero": lambda x: x.nonzero(),
            "unique": lambda x: torch.unique(x),
            "repeat": lambda x: x.repeat_interleave(x.new_ones(len(x), dtype=torch.int64), dim=0),
            "eigvalsh": lambda x: torch.linalg.eigvalsh(x[0, 0].double()),
            "equal": lambda x: torch.equal(x, x + 1),
        }
        harmless = [
            lambda x: x.to("cpu", non_blocking=True),
            lambda x: x.clone().masked_fill_(x > 0, 0.0),
            lambda x: x.repeat_interleave(x.new_full((len(x),), 2, dtype=torch.int64), dim=0, output_size=2 * len(x)),
        ]

        def reading(self: ImageWorkload, batch: Any, device: torch.device, *, train: bool) -> Any:
            images, labels = to_device(self, batch, device, train=train)
            for read in [*planted.values(), *harmless]:
                read(images)
            return images, labels

        before = recorded("image_classification").waits
        monkeypatch.setattr(ImageWorkload, "to_device", reading)
        # Outside the package, only what reaches a kernel is recorded: treat this file as part of it.
        monkeypatch.setattr(recorded_steps, "PACKAGE", Path(__file__).parent)
        waits = recorded("image_classification").waits
        found = Counter(wait.partition(": ")[2] for wait in waits) - Counter(wait.partition(": ")[2] for wait in before)
        assert found == Counter(
            {
                "aten._local_scalar_dense.default reads from the device": 3,
                "tolist reads from the device": 1,
                "cpu reads from the device": 1,
                "to copies to another device, and waits for it": 1,
                "aten.index.Tensor asks how much a mask selects": 1,
                "aten.nonzero.default reads from the device": 1,
                "aten._unique2.default reads from the device": 1,
                "aten.repeat_interleave.Tensor asks for the size of the result": 1,
                "aten._linalg_eigh.default checks for errors": 1,
                "aten.equal.default reads from the device": 1,
            }
        )
