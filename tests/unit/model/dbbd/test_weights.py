"""Weights of DBBD are loaded from every kind of file that holds them, and others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.core.errors import CheckpointError
from dbbd_cli.model.dbbd.pretraining import DbbdPretraining
from dbbd_cli.model.dbbd.weights import load_encoder, load_weights, sizes_of, weights_in
from unit.model.dbbd.networks import make_dbbd


def tiny(**changes: Any) -> DbbdPretraining:
    sizes: dict[str, Any] = {
        "hidden_dim": 8, "output_dim": 8, "encoder_hidden_dims": [6, 8], "propagator_hidden_dim": 8, "projection_dim": 4
    }  # fmt: skip
    return make_dbbd(**{**sizes, **changes})


@pytest.mark.parametrize("style", ["first", "ours", "bare"])
def test_weights_are_loaded_from_checkpoints(style: str, tmp_path: Path) -> None:
    source, target = tiny(), tiny()
    state = source.state_dict()
    parts = {
        prefix: {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(prefix)}
        for prefix in ("encoder", "loss")
    }
    optimizer = torch.optim.AdamW(source.parameters()).state_dict()
    content = {
        "first": {
            "epoch": 3,
            "encoder_state_dict": parts["encoder"],
            "loss_fn_state_dict": parts["loss"],
            "optimizer_state_dict": optimizer,
            "best_val_loss": 1.5,
            "config": {"max_depth": 4},
        },
        "ours": {"module": state, "epoch": 3, "optimizer": optimizer},
        "bare": state,
    }[style]
    torch.save(content, tmp_path / "ckpt.pth")
    load_weights(target, tmp_path / "ckpt.pth")
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())


def test_weights_of_a_teacher_are_left_out_and_a_new_teacher_begins_as_the_network(tmp_path: Path) -> None:
    source = tiny(momentum=0.9)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    torch.save({"module": source.state_dict()}, tmp_path / "ckpt.pth")
    for momentum in (0.0, 0.5):
        target = tiny(momentum=momentum)
        load_weights(target, tmp_path / "ckpt.pth")
        for name, value in target.state_dict().items():
            assert torch.equal(value, source.state_dict()[name.removeprefix("teacher.")]), name
    encoder = tiny().encoder
    load_encoder(encoder, tmp_path / "ckpt.pth")
    assert all(torch.equal(value, source.encoder.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_heads_of_the_description_loss_are_loaded_if_they_describe_as_much(tmp_path: Path) -> None:
    def made(*groups: int) -> DbbdPretraining:
        return tiny(description_weight=1.0, description_groups=groups)

    source = made(2, 1)
    torch.save({"module": source.state_dict()}, tmp_path / "ckpt.pth")
    for target, alike in ((made(2, 1), True), (made(3), True), (made(4), False), (tiny(), False)):
        load_weights(target, tmp_path / "ckpt.pth")
        assert torch.equal(
            target.loss.region_projection.layers[3].weight, source.loss.region_projection.layers[3].weight
        )
        if target.description is not None and source.description is not None:
            heads = [module.point_heads[0].weight for module in (target.description, source.description)]
            assert torch.equal(*heads) == alike
    torch.save({"module": tiny().state_dict()}, tmp_path / "ckpt.pth")
    load_weights(source, tmp_path / "ckpt.pth")


def test_prototypes_are_loaded_if_there_are_as_many(tmp_path: Path) -> None:
    def made(number: int) -> DbbdPretraining:
        return tiny(momentum=0.5, kind="prototypes", num_prototypes=number)

    source = made(5)
    torch.save({"module": source.state_dict()}, tmp_path / "ckpt.pth")
    for target in (made(5), made(6), tiny()):
        load_weights(target, tmp_path / "ckpt.pth")
        own, loaded = target.loss.region_prototypes, source.loss.region_prototypes
        assert loaded is not None
        assert own is None or torch.equal(own, loaded) == (len(own) == 5)
        assert torch.equal(
            target.loss.region_projection.layers[3].weight, source.loss.region_projection.layers[3].weight
        )
    torch.save({"module": tiny().state_dict()}, tmp_path / "ckpt.pth")
    load_weights(source, tmp_path / "ckpt.pth")


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pth"
    torch.save({"module": tiny(aggregation="attention", output_dim=12).state_dict()}, path)
    with pytest.raises(CheckpointError, match="does not match") as caught:
        load_weights(tiny(aggregation="max"), path)
    assert any("unknown: encoder.aggregator.attention.query" in line for line in caught.value.details)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="contains no DBBD weights"):
        load_weights(tiny(), path)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    path = tmp_path / "ckpt.pth"
    torch.save({"encoder_state_dict": {}, "loss_fn_state_dict": {}, "config": Payload()}, path)
    with pytest.raises(CheckpointError):
        load_weights(tiny(), path)
    assert not marker.exists()


def test_sizes_are_inferred_from_the_weights() -> None:
    state = tiny(aggregation="attention", feature_dim=6).state_dict()
    assert sizes_of(state) == {
        "feature_dim": 6, "hidden_dim": 8, "output_dim": 8, "encoder_hidden_dims": [6, 8], "propagator_hidden_dim": 8,
        "projection_dim": 4, "aggregation": "attention",
    }  # fmt: skip
    assert sizes_of({"weight": torch.ones(2)}) is None


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(prefix: str) -> None:
    state = tiny().state_dict()
    parts = {
        f"{part}_state_dict": {
            prefix + key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")
        }
        for part, name in (("encoder", "encoder"), ("loss_fn", "loss"))
    }
    wrapped = {f"{prefix}{key}": value for key, value in state.items()}
    for content in (parts, wrapped, {"module": wrapped}):
        found = weights_in(content, Path("a.pth"))
        assert found is not None
        assert list(found) == list(state)


@pytest.mark.parametrize("content", [None, [], {}, {"module": {"module": {}}}, {"a": 1}])
def test_other_content_holds_no_weights(content: object) -> None:
    assert weights_in(content, Path("a.pth")) is None
