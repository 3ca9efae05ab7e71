"""The private and unstable parts of libraries that the package uses are still there and still do what it expects."""

from __future__ import annotations

import ast
import os
import pickle
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from dbbd_cli.core import compat

PACKAGE = Path(compat.__file__).parents[1]
ELSEWHERE = {"os._exit", "sys.__excepthook__"}
"""Documented, despite their names."""


class Anything:
    pass


@pytest.mark.parametrize("archive", [True, False])
def test_the_code_that_torch_load_refuses_is_named(tmp_path: Path, archive: bool) -> None:
    torch.save({"a": Anything()}, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(tmp_path / "a.pth", weights_only=True)
    assert compat.refused_global(caught.value) == f"{Anything.__module__}.Anything"
    (tmp_path / "a.pth").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.")
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(tmp_path / "a.pth", weights_only=True)
    assert compat.refused_global(caught.value) == "os.system"
    assert compat.refused_global(ValueError("GLOBAL os.system")) is None


def test_completion_requests_are_answered() -> None:
    request = {"_DBBD_COMPLETE": "complete_bash", "COMP_WORDS": "dbbd tr", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "dbbd_cli"]
    found = subprocess.run(command, env={**os.environ, **request}, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["train"]


def test_completion_is_installed_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shell, path = compat.install_completion("fish")
    assert shell == "fish"
    assert tmp_path in path.parents
    assert "dbbd" in path.read_text(encoding="utf-8")


def test_a_tar_forgets_its_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in "abc":
            tar.addfile(tarfile.TarInfo(name))
    with tarfile.TarFile(tmp_path / "a.tar") as tar:
        names = []
        while (member := tar.next()) is not None:
            names.append(member.name)
            compat.forget_members(tar)
        assert names == ["a", "b", "c"]
        assert tar.members == []


def test_pillow_tells_the_decoder_before_it_decodes(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 3 2 4095\n" + bytes(12))
    with Image.open(tmp_path / "a.pgm") as image:
        tile = compat.pillow_tile(image)
        assert tile is not None
        assert (*tile[:2], tile[2][-1]) == ("ppm", 12, 4095)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", subsampling="4:2:0")
    with Image.open(tmp_path / "a.jpg") as image:
        assert compat.jpeg_sampling(image) == [4, 1, 1]


def test_a_thread_starts_and_gets_its_arguments() -> None:
    done, given = threading.Event(), []

    def work(*arguments: int) -> None:
        given.extend(arguments)
        done.set()

    compat.start_thread(work, 1, 2)
    assert done.wait(30)
    assert given == [1, 2]


@pytest.mark.parametrize("name", ["add_param_group", "zero_grad", "state_dict", "load_state_dict", "step"])
def test_optimizers_are_wrapped_as_expected(name: str) -> None:
    """Without the wrapper, start-up is fast anyway: then `without_compiler` is no longer needed."""
    method = getattr(torch.optim.AdamW, name)
    found = compat.without_compiler(method)
    assert found is not None
    assert found.__name__ == name
    assert "torch._dynamo" not in found.__code__.co_names
    assert compat.without_compiler(found) is None


def test_layers_that_are_random_or_compute_with_all_samples_are_known() -> None:
    known = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm)
    for kind in known:
        layer = kind() if "Dropout" in kind.__name__ else kind(2)
        assert isinstance(layer, compat.layers_of_batches()), kind
    for layer in (nn.Linear(2, 2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)):
        assert not isinstance(layer, compat.layers_of_batches())


def test_cpu_capabilities_have_names() -> None:
    capabilities = compat.cpu_capabilities()
    assert all(isinstance(name, str) for name in capabilities)
    if sys.platform == "linux" and hasattr(torch.cpu, "get_capabilities"):
        assert {"avx2", "cpu_name"} <= capabilities.keys() or "x86" not in str(capabilities.get("architecture"))


def test_cpu_capabilities_are_empty_where_pytorch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert compat.cpu_capabilities() == {}


def test_hyperparameters_are_written_to_the_same_event_file(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as events:
        compat.add_hyperparameters(events, {"lr": 0.1, "name": "a"}, {"best/loss": 0.5})
    (path,) = tmp_path.rglob("*")
    assert b"_hparams_/session_start_info" in path.read_bytes()


def private_uses(path: Path) -> list[str]:
    """Private names that a module takes from other modules."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), []
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {(alias.asname or alias.name).split(".")[0]: alias.name for alias in node.names}
            found += [alias.name for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            found += [f"{node.module}.{a.name}" for a in node.names if is_private(f"{node.module}.{a.name}")]
            if node.module.split(".")[0] != PACKAGE.name:
                modules |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if re.fullmatch(r"[\w.]+", name) and name.split(".")[0] in modules and is_private(name):
                found.append(name)
    return found


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def test_no_other_module_uses_private_parts_of_libraries() -> None:
    found: dict[str, Any] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "compat.py":
            uses = set(private_uses(path)) - ELSEWHERE - {"_typeshed.DataclassInstance"}
            found |= {str(path.relative_to(PACKAGE)): uses} if uses else {}
    assert not found
