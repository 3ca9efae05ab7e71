"""Pictures are judged as `evaluate` judges them, and unreadable ones are skipped with the reason."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.predict import predict
from dbbd_cli.services.train import train
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig

Make = Callable[..., ImageClassificationConfig]


def test_pictures(tiny_config: Make, picture_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = picture_folder(count=12)
    config = tiny_config(data__source="folder", data__path=str(root), training__epochs=1, run__precision="fp32")
    run = train(config).run
    evaluate(run, plots=False)
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "raw.cr2").write_bytes(b"raw")
    other = [
        str(tmp_path / "damaged.png"),
        "http://a.example",
        str(run / "splits.json"),
        "a.jgp",
        f"{tmp_path}/raw.cr2",
    ]
    # The pictures of the run are not needed: its folder may have moved.
    moved = root.rename(tmp_path / "moved")
    results = list(predict(run, [*(str(moved / row["path"]) for row in rows), *other]))
    assert [result.status for result in results] == ["judged"] * len(rows) + ["skipped"] * 5
    assert all(result.calibrated for result in results[: len(rows)])
    for row, result in zip(rows, results, strict=False):
        expected = {name: float(row[f"p({name})"]) for name in ("cat", "dog", "owl")}
        assert result.probabilities == pytest.approx(expected, abs=1e-4)
        assert (result.predicted, result.verdict, result.threshold) == (row["predicted"], row["predicted"], None)
    assert [result.note for result in results[-5:]] == [
        "not an image, damaged, or in an unsupported format",
        "is a URL, and URLs are never fetched; this run judges pictures",
        "is not a picture; this run judges pictures",
        "there is no such file or folder; this run judges pictures",
        "is a picture in an unsupported format",
    ]
    found = list(predict(run, [str(moved)]))
    assert len(found) == 36
    (run / "calibration.json").unlink()
    assert not any(result.calibrated for result in predict(run, [str(moved)]))
    with pytest.raises(ConfigError, match="--explain: a verdict about a picture cannot be explained"):
        predict(run, [], explain=True)
