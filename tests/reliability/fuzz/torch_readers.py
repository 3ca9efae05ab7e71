"""Readers that need PyTorch: files of tensors, checkpoints, and what a resumed run reads of itself."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import torch
import torch_seeds as seeds
from reader import Reader, require, write_once
from text_seeds import HISTORY, histories, json_of

from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.core.progress import Silent
from dbbd_cli.engine import environment
from dbbd_cli.engine.checkpoint.files import CONTENT, UnreadableCheckpointError, load_checkpoint
from dbbd_cli.engine.runtime import choose_runtime
from dbbd_cli.engine.state import TrainState
from dbbd_cli.model.dbbd.weights import sizes_of, weights_in
from dbbd_cli.model.weights import ContentError, load_tensors
from dbbd_cli.runs.log import restore_history
from dbbd_cli.runs.reading import read_run
from dbbd_cli.services.bare_weights import open_bare_weights
from dbbd_cli.services.session import open_run

_PLAIN = (str, int, float, complex, bool, bytes, bytearray, type(None), torch.Size, torch.device, torch.dtype)


def tensors(data: bytes, folder: Path) -> None:
    check_plain(load_tensors(write_once(folder / "a.pth", seeds.file_of(data))))


def check_plain(content: object) -> None:
    """Require tensors within their memory, plain values, and containers of them."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += list(value)
        elif isinstance(value, torch.Tensor):
            require(value.numel() * value.element_size() < 10**6, "a tensor larger than the file")
            value.clone()  # touches each of its bytes
        else:
            require(isinstance(value, (*_PLAIN, torch.storage.TypedStorage, torch.UntypedStorage)), f"{type(value)}")


def checkpoint(data: bytes, folder: Path) -> None:
    state = load_checkpoint(write_once(folder / "ckpt.pth", data))
    require(state.keys() >= CONTENT, "a part is missing")
    check_plain(state)


def bare_weights(data: bytes, folder: Path) -> None:
    path = write_once(folder / "a.pth", seeds.file_of(data))
    sizes = sizes_of(weights_in(load_tensors(path, objects=True), path) or {})
    for name, size in (sizes or {}).items():
        values = size if isinstance(size, list) else [size]
        require(name == "aggregation" or all(type(value) is int and value >= 0 for value in values), "an odd size")
    try:
        open_bare_weights(path, config=None, overrides=[], progress=Silent())
    except ConfigError as error:
        if "data.path is not set" not in error.message:  # which is what is said of weights that can be used
            raise


def run(data: bytes, folder: Path) -> None:
    """A run folder whose checkpoint has wrong values and a matching digest."""
    write_once(folder / "ckpt.pth", seeds.checkpoint_of(json_of(data)))
    write_once(folder / "splits.json", seeds.MANIFEST.to_json().encode())
    opened = open_run(folder, prefer="ckpt.pth", overrides=[], progress=Silent())
    require(isinstance(opened.state, TrainState), "it has no state")


def train_state(data: bytes, _: Path) -> None:
    values = json_of(data)
    state = TrainState.from_plain(values)
    require(state.epoch == len(state.history) + 1 and state.best_epoch <= len(state.history), "an odd position")
    require(min(state.epoch, state.batch, state.step, state.patience_epochs) >= 0, "a negative count")


def resumed_history(data: bytes, folder: Path) -> None:
    """The history that a resumed run keeps must be a valid history again."""
    write_once(folder / "config.yaml", b"task: dbbd\n")
    write_once(folder / "history.jsonl", data)
    epoch = json.loads(HISTORY.splitlines()[1])
    restore_history(folder / "history.jsonl", 3, [epoch])
    for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: require(False, f"{name} is no JSON"))
    read_run(folder)


def run_environment(data: bytes, folder: Path) -> None:
    """Resuming adds to the record of a run, whatever the record contains."""
    path = write_once(folder / "environment.json", data)
    versions = mock.patch.multiple(environment, _git_commit=lambda: None, PACKAGES=())
    with versions:
        environment.write_environment(folder, ["dbbd", "resume"], choose_runtime("cpu", "fp32"))
    content = json.loads(path.read_text(encoding="utf-8"))
    last = content["resumed"][-1] if "resumed" in content else content
    require(last["command"] == ["dbbd", "resume"], "the command is not recorded")


REFUSALS = (CheckpointError, UnreadableCheckpointError)
READERS = [
    Reader("tensors", tensors, seeds.tensor_files, (CheckpointError, ContentError), seeds.sealed),
    Reader("checkpoint", checkpoint, seeds.checkpoints, REFUSALS, seeds.sealed),
    Reader("bare_weights", bare_weights, seeds.weights, (CheckpointError, ContentError, ConfigError), seeds.sealed),
    Reader("run", run, seeds.contents, (*REFUSALS, ConfigError), structured=True),
    Reader("train_state", train_state, seeds.states, (ValueError,), structured=True),
    Reader("resumed_history", resumed_history, histories, (CheckpointError,)),
    Reader("environment", run_environment, seeds.environments, ()),
]
