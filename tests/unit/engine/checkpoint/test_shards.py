"""The parts of a checkpoint that processes have divided are verified before use, and nothing else is read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import distributed, nn

from dbbd_cli.core.errors import CheckpointError, DiskError
from dbbd_cli.engine.checkpoint import files, shards
from dbbd_cli.engine.checkpoint.files import (
    CONTENT,
    NEWEST,
    is_damaged,
    load_checkpoint,
    previous_name,
    save_checkpoint,
)
from dbbd_cli.engine.checkpoint.shards import divided
from dbbd_cli.engine.processes import ALONE
from dbbd_cli.engine.sharding import is_shard, is_sharded, shard
from dbbd_cli.engine.sharding import whole as whole_of
from dbbd_cli.model.digest import save_with_digest


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return shard(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), torch.device("cpu"), 1)


def trained(module: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.rand(5, 4)).sum().backward()
    optimizer.step()
    return optimizer


def state_of(module: nn.Module, optimizer: torch.optim.Optimizer, step: int = 1) -> dict[str, Any]:
    return {
        **{name: {} for name in CONTENT - {"format"}},
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "state": {"step": step},
    }


def flat(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The whole tensors of a state."""
    parts = {"module": state["module"], **state["optimizer"]["state"]}
    return {f"{part}.{name}": whole_of(value) for part, values in parts.items() for name, value in values.items()}


def save(state: dict[str, Any], folder: Path, keep: int = 2) -> None:
    save_checkpoint(state, folder, best=False, keep=keep, processes=ALONE)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a checkpoint of which tensors are divided."""
    module = network()
    assert is_sharded(module)
    save(state_of(module, trained(module)), tmp_path)
    return tmp_path


def parts(folder: Path) -> Path:
    (found,) = folder.glob("shards-1/*")
    return found


def test_a_checkpoint_is_read_whole_or_divided_again(tmp_path: Path) -> None:
    module = network()
    optimizer = trained(module)
    save(state_of(module, optimizer), tmp_path)
    whole = load_checkpoint(tmp_path / NEWEST)
    other = network(seed=1)
    into = torch.optim.AdamW(other.parameters())
    again = divided(load_checkpoint(tmp_path / NEWEST, whole=False), tmp_path / NEWEST, other, into)
    from_whole = divided(whole, tmp_path / NEWEST, other, into)
    assert "shards" not in whole
    for found in (again, from_whole):
        assert [is_shard(value) for value in found["module"].values()].count(True) == 6
    for name, value in flat(state_of(module, optimizer)).items():
        for found in (whole, again, from_whole):
            assert torch.equal(flat(found)[name], value), name
    other.load_state_dict(again["module"])
    into.load_state_dict(again["optimizer"])


def test_parts_are_kept_as_long_as_their_checkpoint(tmp_path: Path) -> None:
    module = network()
    optimizer = trained(module)
    for step in (1, 2, 2, 3):
        save(state_of(module, optimizer, step), tmp_path)
    assert {path.name for path in tmp_path.glob("shards-*")} == {"shards-2-1", "shards-3"}
    assert load_checkpoint(tmp_path / previous_name(1))["state"]["step"] == 2
    (tmp_path / "ckpt.damaged.pth").write_bytes(b"damaged")
    (tmp_path / "shards-9").mkdir()
    for step in (4, 5, 6):
        save(state_of(module, optimizer, step), tmp_path)
    kept = {path.name for path in tmp_path.glob("shards-*")}
    assert kept == {"shards-9", "shards-5", "shards-6"}, "only what the damaged file may name is kept with it"


@pytest.mark.parametrize("moment", ["verify_shards", "with_whole_tensors"])
def test_a_checkpoint_that_a_run_replaces_meanwhile_is_read_again(
    moment: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = network()
    optimizer = trained(module)
    used, steps = getattr(files, moment), [2, 3]

    def after_a_save(state: Any, path: Path) -> Any:
        if steps:
            save(state_of(module, optimizer, steps.pop(0)), saved, keep=1)
        return used(state, path)

    monkeypatch.setattr(files, moment, after_a_save)
    found = load_checkpoint(saved / NEWEST)
    assert found["state"]["step"] == 3
    expected = flat(state_of(module, optimizer))
    assert all(torch.equal(value, expected[name]) for name, value in flat(found).items())


def test_parts_that_vanish_while_they_are_read_are_an_error_in_one_line(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = shards._listed

    def vanishing(checkpoint: Any, path: Path) -> Any:
        found = listed(checkpoint, path)
        shutil.rmtree(saved / "shards-1")
        return found

    monkeypatch.setattr(shards, "_listed", vanishing)
    with pytest.raises(CheckpointError, match=r"does not have its weights: .*No such file or directory") as caught:
        load_checkpoint(saved / NEWEST)
    assert "Traceback" not in caught.value.message


def flip(folder: Path) -> None:
    content = bytearray(parts(folder).read_bytes())
    content[-1] ^= 1
    parts(folder).write_bytes(content)


def cut(folder: Path) -> None:
    parts(folder).write_bytes(parts(folder).read_bytes()[:-5])


def add(folder: Path) -> None:
    shutil.copy(parts(folder), parts(folder).with_name("shard-00002-model-00001-of-00001.safetensors"))


@pytest.mark.parametrize(
    "damage", [flip, cut, add, lambda folder: parts(folder).unlink(), lambda folder: shutil.rmtree(folder / "shards-1")]
)
def test_damaged_parts_are_found(damage: Callable[[Path], None], saved: Path) -> None:
    assert not is_damaged(saved / NEWEST)
    damage(saved)
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(saved / NEWEST)
    assert is_damaged(saved / NEWEST)


def rewritten(folder: Path, /, **changes: Any) -> Path:
    content = torch.load(folder / NEWEST, weights_only=True)
    content["shards"].update(changes)
    save_with_digest(content, folder / NEWEST)
    return folder / NEWEST


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": "../shards-1"},
        {"folder": "/etc"},
        {"folder": 7},
        {"files": {"../ckpt.pth": "0" * 64}},
        {"files": {}},
        {"files": {"shard-00001-model-00001-of-00001.safetensors": 1}},
    ],
)
def test_names_from_a_checkpoint_never_lead_out_of_its_folder(changes: dict[str, Any], saved: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(rewritten(saved, **changes))


def test_parts_that_do_not_make_a_whole_are_refused(saved: Path) -> None:
    tensors = load_file(parts(saved))
    about = {name: {"saved_offsets": [0] * value.ndim} for name, value in tensors.items()}
    about["module.0.weight"]["saved_offsets"][0] = 2**40  # a tensor of petabytes, of which only these rows are there
    save_file(tensors, parts(saved), {"DCP_SHARDING_INFO": json.dumps(about)})
    digest = hashlib.sha256(parts(saved).read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=r"parts of module\.0\.weight are missing"):
        load_checkpoint(rewritten(saved, files={parts(saved).name: digest}))


@pytest.mark.parametrize("optimizer", [{}, [1], {"state": {"a": 1}}, {"state": [1]}])
def test_odd_content_is_refused(optimizer: Any, saved: Path) -> None:
    content = torch.load(saved / NEWEST, weights_only=True)
    save_with_digest({**content, "optimizer": optimizer}, saved / NEWEST)
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(saved / NEWEST)


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("safetensors.safe_open", SafetensorError("header too small"), "reads back differently"),
        ("dbbd_cli.engine.checkpoint.files.save_with_digest", OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_parts_of_a_failed_save_are_removed(
    place: str, error: Exception, message: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    module = network(seed=3)
    state = state_of(module, trained(module), 2)
    monkeypatch.setattr(place, fail)
    with pytest.raises(DiskError, match=message):
        save(state, saved)
    assert {path.name for path in saved.iterdir()} == {NEWEST, "shards-1"}


def test_a_full_disk_leaves_the_checkpoints_as_they_were(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = network(seed=3)
    optimizer = trained(module)
    before = load_checkpoint(saved / NEWEST)["module"]

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(saved / "shards-2"))

    monkeypatch.setattr("safetensors.torch.save", no_space)
    with pytest.raises(DiskError, match="No space left on device"):
        save(state_of(module, optimizer, 2), saved)
    assert {path.name for path in saved.iterdir()} == {NEWEST, "shards-1"}
    after = load_checkpoint(saved / NEWEST)["module"]
    assert all(torch.equal(before[name], after[name]) for name in before)
