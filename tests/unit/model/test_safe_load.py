from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from dbbd_cli.errors import CheckpointError
from dbbd_cli.model.safe_load import load_tensors


@pytest.mark.parametrize("archive", [True, False])
def test_data_types_are_plain_values(tmp_path: Path, archive: bool) -> None:
    content = {"type": torch.bfloat16, "size": torch.Size([1, 2]), "tensor": torch.ones(2)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    assert repr(load_tensors(tmp_path / "a.pth")) == repr(content)


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("value", [torch._utils._rebuild_tensor_v2, torch.Size, torch.FloatStorage])
def test_what_is_named_and_not_called_is_refused(tmp_path: Path, value: object, archive: bool) -> None:
    torch.save({"a": [value]}, tmp_path / "a.pth", _use_new_zipfile_serialization=archive, pickle_module=pickle)
    with pytest.raises(CheckpointError, match=r"was not loaded: it wants the code of torch\."):
        load_tensors(tmp_path / "a.pth")
