"""Settings are checked before the data is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbbd_cli.core.errors import DataError, DbbdError
from dbbd_cli.core.progress import Phase, Silent
from dbbd_cli.services.train import forecast, train
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig

Make = Callable[..., ImageClassificationConfig]


class Untouched(Silent):
    @contextmanager
    def phase(
        self, title: str, total: int, unit: str = "batches", done: int = 0, sample_unit: str = "samples"
    ) -> Iterator[Phase]:
        pytest.fail(f"{title} began")
        yield


def test_mistakes_are_reported_before_the_data_is_read(tiny_config: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for changes in (
        {"run.name": "a/b"},
        {"run.runs_dir": str(tmp_path / "file" / "runs")},
        {"run.device": "cuda:77"},
        {"run.precision": "fp16"},
        {"model.weights": str(tmp_path / "missing.pth")},
        {"data.source": "folder", "data.path": "~nosuchuser/x"},
    ):
        for service in (train, forecast):
            with pytest.raises(DbbdError) as caught:
                service(tiny_config(**changes), progress=Untouched())
            assert not isinstance(caught.value, DataError), changes
