"""The image models that can be chosen by name, and the input that each expects.

Imports torchvision, and with it torch, only for names that are not in `COMMON_MODELS`.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

COMMON_MODELS = ("qr_cnn", "resnet18", "resnet34", "resnet50", "efficientnet_b0", "mobilenet_v3_small")
"""Models offered by shell completion. All of them have the default `ModelInput`."""


class ModelInput(NamedTuple):
    """The images that a model expects.

    Attributes:
        size: height and width that it was designed for, pixels.
        mean: mean of each channel (red, green, blue), subtracted from values in [0, 1]. The default is ImageNet's.
        std: standard deviation of each channel, by which the difference is divided.
    """

    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@cache
def model_input(name: str) -> ModelInput:
    """The input of a model; of a torchvision model, that of its default pretrained weights.

    Raises:
        ValueError: there is no such model; the message says what is expected.
    """
    if name in COMMON_MODELS:
        return ModelInput()
    from difflib import get_close_matches

    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        near = get_close_matches(name, [*COMMON_MODELS, *names], n=1)
        raise ValueError("qr_cnn or a torchvision classifier" + (f"; did you mean {near[0]}?" if near else ""))
    expected = models.get_model_weights(name).DEFAULT.transforms()
    return ModelInput(expected.crop_size[0], tuple(expected.mean), tuple(expected.std))
