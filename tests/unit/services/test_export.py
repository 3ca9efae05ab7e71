"""Exported weights are those of the checkpoint, in one file that other programs and runs read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from dbbd_cli.core.errors import CheckpointError, ConfigError, DiskError
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.services.export import export
from dbbd_cli.services.train import train
from dbbd_cli.tasks.image_classification.config import ImageClassificationConfig

Make = Callable[..., ImageClassificationConfig]


def test_exported_weights_are_those_of_the_best_model(tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config()).run
    expected = load_checkpoint(run / "best_model.pth")
    result = export(run)
    assert result.file == run / "best_model.safetensors"
    exported = export(run, out=tmp_path / "new" / "net.pth").file
    for found in (load_file(result.file), torch.load(exported, weights_only=True)):
        assert found.keys() == expected["module"].keys()
        assert all(torch.equal(found[name], value) for name, value in expected["module"].items())
        assert all(value.is_contiguous() for value in found.values())
    assert result.tensors == len(expected["module"])
    with safe_open(result.file, framework="pt") as file:
        about = file.metadata()
    assert json.loads(about["config"]) == expected["config"]
    assert about["epoch"] == str(len(expected["state"]["history"]))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_run_can_start_from_exported_weights(suffix: str, tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config(training__epochs=1)).run
    file = export(run, out=tmp_path / f"net{suffix}").file
    again = train(tiny_config(training__epochs=1, training__learning_rate=1e-6, model__weights=str(file))).run
    before, after = (load_checkpoint(folder / "ckpt.pth")["module"] for folder in (run, again))
    names = [name for name in before if name.endswith(("weight", "bias"))]
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-4) for name in names)


def test_nothing_is_replaced_and_errors_say_what_to_do(tiny_config: Make, tmp_path: Path) -> None:
    run = train(tiny_config(training__epochs=1)).run
    taken = tmp_path / "net.pth"
    taken.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(run, out=taken)
    assert taken.read_bytes() == b"mine"
    with pytest.raises(ConfigError, match=r"does not end with \.safetensors or \.pth"):
        export(run, out=tmp_path / "net.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot be written"):
        export(run, out=tmp_path / "file" / "net.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="is not in a run folder"):
        export(tmp_path / "bare.pth")


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_others_may_read_an_exported_file_as_far_as_the_umask_allows(
    suffix: str, tiny_config: Make, tmp_path: Path
) -> None:
    run = train(tiny_config(training__epochs=1)).run
    for mask, mode in ((0o022, 0o644), (0o027, 0o640)):
        before = os.umask(mask)
        try:
            file = export(run, out=tmp_path / f"{mask}{suffix}").file
        finally:
            os.umask(before)
        assert file.stat().st_mode & 0o777 == mode


def test_damaged_safetensors_are_refused(tiny_config: Make, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    for content in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}x"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is not a valid file of tensors|contains no state dict"):
            train(tiny_config(model__weights=str(file)))
