"""Image classifiers: every architecture gets its head, and loss, metrics and pretrained weights are right."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_f1_score

from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.engine.efficiency import count_multiply_adds
from dbbd_cli.engine.state import Sums
from dbbd_cli.model.classification import macro_f1
from dbbd_cli.model.images.catalog import model_input
from dbbd_cli.model.images.classifier import Classifier, _replace_head, build_network, load_weights


def build(name: str = "qr_cnn", weights: str = "none", num_classes: int = 2) -> torch.nn.Module:
    return build_network(name, num_classes=num_classes, image_size=32, dropout=0.5, weights=weights)


SMALL_OF_EACH_FAMILY = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vit_b_32",
)


@pytest.mark.parametrize("name", SMALL_OF_EACH_FAMILY)
def test_torchvision_classifiers_have_the_classes_and_the_dropout(name: str) -> None:
    size = model_input(name).size
    device = "cpu" if name.startswith("regnet") else "meta"  # regnets compute their widths with tensors
    with torch.device(device), torch.no_grad():
        network = build_network(name, num_classes=5, image_size=size, dropout=0.4, weights="none")
        assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} - {0.0} == {0.4}
        for training in (True, False):  # auxiliary classifiers answer only in training
            assert network.train(training)(torch.zeros(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("resnet18", {"fc.1.weight", "fc.1.bias"}),
        ("efficientnet_b0", {"classifier.1.weight", "classifier.1.bias"}),
        ("mobilenet_v3_small", {"classifier.3.weight", "classifier.3.bias"}),
    ],
)
def test_keys_are_those_of_earlier_checkpoints(name: str, added: set[str]) -> None:
    from torchvision import models

    common = {key for key in models.get_model(name).state_dict() if not key.startswith("fc.")}
    assert set(build(name).state_dict()) == common | added


@pytest.mark.parametrize("name", ["vit_b_32", "maxvit_t"])
def test_transformers_are_built_for_other_sizes(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        network = build_network(name, num_classes=2, image_size=448, dropout=0.0, weights="none").eval()
        assert network(torch.zeros(1, 3, 448, 448)).shape == (1, 2)


@pytest.mark.parametrize("name", ["alexnet", "inception_v3", "vit_b_32", "maxvit_t"])
def test_a_size_that_a_network_cannot_take_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data.image_size: {name} cannot take images of 40 x 40 pixels") as caught:
        build_network(name, num_classes=2, image_size=40, dropout=0.5, weights="none")
    assert caught.value.hint == f"leave data.image_size out: {name} then gets {model_input(name).size} pixels"


def test_a_model_without_a_replaceable_classifier_is_an_error() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 1000), torch.nn.Linear(1000, 21))
    with pytest.raises(ConfigError, match="the classifier at the end of Sequential cannot be replaced"):
        _replace_head(network, 2, 0.5)


def test_a_checkpoint_of_googlenet_computes_the_same_without_the_download() -> None:
    """Pretrained weights make googlenet normalize its input again, which no state dict stores."""
    assert build("googlenet").transform_input


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 1.81e9), ("resnet50", 4.09e9), ("vit_b_32", 4.41e9)])
def test_multiply_adds_are_those_of_the_papers(name: str, expected: float) -> None:
    with torch.device("meta"):
        network = build_network(name, num_classes=1000, image_size=224, dropout=0.5, weights="none").eval()
        assert count_multiply_adds(network, torch.empty(1, 3, 224, 224)) == pytest.approx(expected, rel=0.02)


def test_loss_is_smoothed_only_while_training() -> None:
    classifier = Classifier(build(), label_smoothing=0.3)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
    output = classifier.eval()(images, labels)
    logits = classifier.network(images)
    assert torch.allclose(output.loss, F.cross_entropy(logits, labels))
    assert output.num_samples == 4
    assert output.metrics["accuracy"] == (logits.argmax(1) == labels).sum()
    smoothed = Classifier(torch.nn.Flatten(), label_smoothing=0.3).train()
    flat = torch.randn(4, 2, 1, 1)
    assert torch.allclose(smoothed(flat, labels).loss, F.cross_entropy(flat.flatten(1), labels, label_smoothing=0.3))


@pytest.mark.parametrize("num_classes", [2, 7])
def test_f1_does_not_depend_on_the_batches(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    # The last class neither occurs nor is predicted, and the one before it is predicted only.
    logits = torch.randn(50, num_classes, generator=generator)
    logits[:, -1] = -10.0
    labels = torch.randint(0, max(1, num_classes - 2), (50,), generator=generator)
    classifier, sums = Classifier(torch.nn.Flatten()).eval(), Sums()
    for first, last in ((0, 32), (32, 49), (49, 50)):
        sums.add(classifier(logits[first:last, :, None, None], labels[first:last]))
    sums.flush()
    counts = [sums.values[f"f1_{place}"] for place in range(2 * num_classes)]
    expected = multiclass_f1_score(logits.argmax(dim=1), labels, num_classes, average="macro")
    assert macro_f1(counts) == pytest.approx(float(expected), abs=1e-6)
    assert sums.values["accuracy"] == float((logits.argmax(dim=1) == labels).sum())
    assert "f1" not in classifier.train()(logits[:, :, None, None], labels).metrics


def test_weights_that_cannot_be_downloaded_name_the_other_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ConfigError) as caught:
        build("resnet18", weights="default")
    assert "no network" in caught.value.message
    assert "model.weights=none" in caught.value.hint
    assert "model.weights=PATH" in caught.value.hint


def test_weights_of_a_file_are_loaded_also_from_a_checkpoint(tmp_path: Path) -> None:
    source = build()
    wrappings: list[Callable[[dict[str, torch.Tensor]], object]] = [
        lambda state: state,
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"module": {f"network.{key}": value for key, value in state.items()}},
    ]
    for number, wrap in enumerate(wrappings):
        path = tmp_path / f"{number}.pth"
        torch.save(wrap(source.state_dict()), path)
        loaded = build(weights=str(path))
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenet_v3_small", "densenet121", "swin_t"])
def test_weights_downloaded_from_torchvision_load(name: str, tmp_path: Path) -> None:
    from torchvision import models

    source = models.get_model(name)
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "weights.pth")
    for num_classes in (1000, 3):
        loaded = build(name, weights=str(tmp_path / "weights.pth"), num_classes=num_classes)
        pairs = list(zip(source.parameters(), loaded.parameters(), strict=True))
        equal = [one.shape == two.shape and torch.equal(one, two) for one, two in pairs]
        assert all(equal[:-2])
        assert all(equal[-2:]) == (num_classes == 1000)


def test_a_last_layer_for_a_different_number_of_classes_stays_random(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    source = build(num_classes=7)
    torch.save(source.state_dict(), path)
    loaded = build(weights=str(path), num_classes=2)
    assert torch.equal(loaded.state_dict()["fc2.weight"], source.state_dict()["fc2.weight"])
    assert loaded.state_dict()["fc3.weight"].shape == (2, 128)


def test_weights_that_do_not_fit_are_rejected_with_the_keys(tmp_path: Path) -> None:
    state = build().state_dict()
    del state["conv2.weight"]
    state["extra"] = torch.zeros(1)
    state["fc2.weight"] = torch.zeros(3, 3)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(build(), path)
    listed = "\n".join(caught.value.details)
    for part in ("missing: conv2.weight", "unknown: extra", "fc2.weight: shape (3, 3)"):
        assert part in listed


def test_files_that_run_code_or_are_not_weights_are_rejected(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    for name, content in (("payload", pickle.dumps(Payload())), ("text", b"hello"), ("empty", b"")):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            load_weights(build(), path)
    assert not marker.exists()
    with pytest.raises(CheckpointError, match="does not exist"):
        load_weights(build(), tmp_path / "missing.pth")
    torch.save({"epoch": 1}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        load_weights(build(), tmp_path / "none.pth")
