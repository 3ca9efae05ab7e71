"""The workload of image classification prepares images as the chosen model expects them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dbbd_cli.core.progress import Silent
from dbbd_cli.model.images.catalog import model_input
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig
from dbbd_cli.tasks.image_classification.task import ImageClassification
from dbbd_cli.tasks.image_classification.workload import ImageWorkload

Make = Callable[..., ImageClassificationConfig]


def workload(config: ImageClassificationConfig) -> ImageWorkload:
    task = ImageClassification()
    manifest = task.make_manifest(config, Silent())
    return task.build(config, manifest, splits=["val"], pretrained=False, pin_memory=False, progress=Silent())


@pytest.mark.parametrize("name", ["qr_cnn", "efficientnet_v2_l"])
def test_images_are_normalized_with_the_statistics_of_the_model(tiny_config: Make, name: str) -> None:
    made = workload(tiny_config(model__name=name))
    batch = next(made.loaders["val"].batches(epoch=1))
    images, _ = made.to_device(batch, torch.device("cpu"), train=False)
    _, mean, std = model_input(name)
    for channel in range(3):
        expected = (batch.pixels[:, 0] / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(images[:, channel], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "size"), [("qr_cnn", 224), ("squeezenet1_1", 224), ("inception_v3", 299)])
def test_the_size_is_that_of_the_model_unless_it_is_set(tiny_config: Make, name: str, size: int) -> None:
    assert tiny_config(model__name=name, data__image_size=None).image_size == size
    assert tiny_config(model__name=name, data__image_size=96).image_size == 96


def test_images_are_prepared_in_the_size_of_the_model(tiny_config: Make) -> None:
    made = workload(tiny_config(model__name="inception_v3", data__image_size=None))
    assert next(made.loaders["val"].batches(epoch=1)).pixels.shape[2:] == (299, 299)
