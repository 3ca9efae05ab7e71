"""Every model name gives the input that its pretrained weights expect, and a wrong name a suggestion."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torchvision import models

from dbbd_cli.model.images.catalog import COMMON_MODELS, ModelInput, model_input


def test_common_models_have_the_input_of_their_pretrained_weights() -> None:
    for name in set(COMMON_MODELS) - {"qr_cnn"}:
        expected = models.get_model_weights(name).DEFAULT.transforms()
        assert ModelInput(expected.crop_size[0], tuple(expected.mean), tuple(expected.std)) == model_input(name)


@pytest.mark.parametrize(
    ("name", "size", "mean"),
    [
        ("inception_v3", 299, (0.485, 0.456, 0.406)),
        ("vit_b_16", 224, (0.485, 0.456, 0.406)),
        ("swin_v2_t", 256, (0.485, 0.456, 0.406)),
        ("efficientnet_v2_l", 480, (0.5, 0.5, 0.5)),
    ],
)
def test_other_models_have_their_own(name: str, size: int, mean: tuple[float, ...]) -> None:
    assert model_input(name)[:2] == (size, mean)


def test_every_classifier_of_torchvision_is_known() -> None:
    for name in models.list_models(module=models):
        assert 224 <= model_input(name).size <= 1024


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "qr_cnn or a torchvision classifier; did you mean resnet50?"),
        ("convnext_tinny", "qr_cnn or a torchvision classifier; did you mean convnext_tiny?"),
        ("qr_cn", "qr_cnn or a torchvision classifier; did you mean qr_cnn?"),
        ("fcn_resnet50", "qr_cnn or a torchvision classifier; did you mean resnet50?"),
        ("", "qr_cnn or a torchvision classifier"),
    ],
)
def test_an_unknown_name_is_an_error_with_a_suggestion(name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        model_input(name)
    assert str(caught.value) == message


def test_common_models_need_no_torchvision() -> None:
    code = (
        "import sys; from dbbd_cli.model.images.catalog import COMMON_MODELS, model_input; "
        "[model_input(name) for name in COMMON_MODELS]; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
