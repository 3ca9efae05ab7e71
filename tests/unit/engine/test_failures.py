"""Failures that a user can fix say how, and end the processes that load batches."""

from __future__ import annotations

import pytest

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.engine.failures import supervised
from unit.engine.line_workload import LineWorkload


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")]
)
def test_a_batch_that_does_not_fit_into_memory_is_explained(error: Exception) -> None:
    with pytest.raises(ConfigError, match="out of memory: a batch does not fit") as caught, supervised(LineWorkload()):
        raise error
    assert caught.value.hint.startswith("draw fewer points; or ")


def test_a_batch_that_is_too_small_for_batch_normalization_is_explained() -> None:
    with pytest.raises(ConfigError, match="a batch of one sample") as caught, supervised(LineWorkload()):
        raise ValueError("Expected more than 1 value per channel when training, got input size [1, 8]")
    assert "training.batch_size" in caught.value.hint


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), KeyboardInterrupt("stop")])
def test_other_errors_pass_and_all_loaders_are_closed(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    workload, closed = LineWorkload(), []
    for name, loader in workload.loaders.items():
        monkeypatch.setattr(loader, "close", lambda name=name: closed.append(name))
    with pytest.raises(type(error), match=str(error)), supervised(workload):
        raise error
    assert closed == ["train", "val"]
