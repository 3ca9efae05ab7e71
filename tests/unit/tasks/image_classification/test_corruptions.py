"""The corruption acts on the pixels before the network, whatever the order and size of batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.data.images.corruptions import Corrupted, corrupt
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.train import train
from dbbd_cli.tasks.image_classification import corruptions
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig
from dbbd_cli.tasks.image_classification.task import ImageClassification

Make = Callable[..., ImageClassificationConfig]


def test_the_first_row_is_the_accuracy_of_the_evaluation(tiny_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "CONDITIONS", (None, ("cover", 100.0), ("blur", 1.0)))
    run = train(tiny_config(training__epochs=1)).run
    report = evaluate(run, plots=False, corrupt=400).report
    found = report["corruptions"]
    clean, covered, _ = found["rows"]
    assert found["num_samples"] == report["num_samples"]
    assert clean["accuracy"]["value"] == pytest.approx(report["accuracy"])
    assert covered["accuracy"]["value"] == 0.5, "all images are gray, so all get the same verdict"
    at, support = report["calibration"]["at_threshold"], [entry["support"] for entry in report["per_class"]]
    right = at["recall"]["value"] * support[1] + (1 - at["false_positive_rate"]["value"]) * support[0]
    assert clean["verdict"]["value"] == pytest.approx(right / sum(support))
    assert "read" not in clean
    some = evaluate(run, plots=False, corrupt=3).report["corruptions"]
    assert some["num_samples"] == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_keep_their_order(channels: int) -> None:
    image = torch.randint(0, 256, (channels, 20, 20), dtype=torch.uint8)
    how = Corrupted("rotation", 20, 0, 1)
    found = corruptions._corrupted(image, how).numpy()
    for channel in range(channels):
        alone = corrupt(image[channel].numpy(), how)
        assert np.abs(found[channel].astype(int) - alone).max() <= 1
    assert torch.equal(corruptions._corrupted(image, None), image)


def test_a_task_without_pictures_refuses(tiny_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tiny_config(training__epochs=1)).run
    monkeypatch.setattr(ImageClassification, "can_corrupt", False)
    with pytest.raises(ConfigError, match="no pictures to corrupt"):
        evaluate(run, corrupt=5)
    assert not (run / "evaluation.json").exists()
