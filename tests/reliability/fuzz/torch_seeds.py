"""Small valid files of tensors: both formats of torch.save, bare weights, and checkpoints with their digest."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from scene_seeds import sealed_zip

from dbbd_cli.config.sections import to_plain
from dbbd_cli.data.manifest import Manifest, Sample
from dbbd_cli.engine.checkpoint.files import CHECKPOINT_FORMAT
from dbbd_cli.engine.state import TrainState
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.tasks.configs import load_config

MANIFEST = Manifest(
    "rooms", (), (), tuple(Sample(f"room{i:05d}", 0, f"{i:064x}", split) for i, split in enumerate(("train", "val")))
)
_SEAL = b"\x4c\x00dbbd sha256 "
_ROWS = [{"train": {"loss": 0.5}, "val": {"loss": 0.75, "point_top1": 0.5}, "kind": "epoch", "epoch": 1, "step": 2}]
_PLAIN = {"step": 3, "names": ["a", ("b", None)], "rate": 1e-3, "on": True, "big": 2**40, "bytes": b"\0\xff"}


def _saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def tensor_files() -> list[bytes]:
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    values = OrderedDict(a=base, b=base.t(), c=base[1:], d=torch.tensor(3), e=torch.zeros(0, 2, dtype=torch.bfloat16))
    kinds: tuple[dict[str, Any], ...] = ({}, {"_use_new_zipfile_serialization": False})
    files = [_saved(value, **options) for value in (values, _PLAIN) for options in kinds]
    return [*files, pickle_in(files[0])]


def pickle_in(archive: bytes) -> bytes:
    """The pickle alone, which `file_of` puts back into an archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(next(name for name in opened.namelist() if name.endswith("data.pkl")))


def file_of(data: bytes) -> bytes:
    """The data; a pickle is put into an archive with storages of 24, 8 and 0 bytes."""
    if not data.startswith(b"\x80"):
        return data
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        contents = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
        for name, content in {**contents, "data/0": bytes(24), "data/1": bytes(8), "data/2": b""}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return buffer.getvalue()


def sealed(data: bytes) -> bytes:
    """The file with correct checksums in its archive, and a matching digest if it has one."""
    data = sealed_zip(data)
    place = data.rfind(_SEAL)
    if place < 0:
        return data
    return data[: place + len(_SEAL)] + hashlib.sha256(data[:place]).hexdigest().encode()


def content() -> dict[str, Any]:
    """The content of a checkpoint without tensors, in values of JSON."""
    state = TrainState(epoch=2, batch=1, step=3, best_value=0.75, best_epoch=1, seconds=1.5, history=_ROWS).to_plain()
    return {
        **{"format": CHECKPOINT_FORMAT, "module": {}, "optimizer": {}, "learning_rate": {}, "scaler": {}},
        **{"state": state, "random": {}, "config": to_plain(load_config("smoke_dbbd"))},
        "runtime": {"device": "cpu", "precision": "fp32", "threads": 2, "processor": "any"},
        **{"splits": MANIFEST.digest(), "proof": None},
    }


def checkpoint_of(values: Any) -> bytes:
    """A checkpoint with the given values and a matching digest."""
    values = {"format": CHECKPOINT_FORMAT, **values} if isinstance(values, dict) else {"format": CHECKPOINT_FORMAT}
    with tempfile.TemporaryDirectory() as folder:
        save_with_digest(values, path := Path(folder) / "ckpt.pth")
        return path.read_bytes()


def checkpoints() -> list[bytes]:
    module = OrderedDict(weight=torch.ones(2, 2), bias=torch.zeros(2))
    return [checkpoint_of({**content(), "module": module, "random": {"torch": torch.zeros(16, dtype=torch.uint8)}})]


def contents() -> list[bytes]:
    return [json.dumps(content()).encode()]


def states() -> list[bytes]:
    return [json.dumps(state).encode() for state in (content()["state"], TrainState().to_plain())]


class Settings:
    """An object stored with the weights."""

    def __init__(self) -> None:
        self.hidden_dims = [4]


def weights() -> list[bytes]:
    """The weights of a small network in the files of both implementations."""
    shapes = {
        "backbone.mlp.0.weight": (4, 8),
        "backbone.mlp.2.weight": (8, 4),
        "raw_projection.mlp.0.weight": (4, 3),
        "propagator.mlp.0.weight": (4, 16),
    }
    names = {name if name.startswith(("raw", "prop")) else f"encoder.{name}": s for name, s in shapes.items()}
    encoder = {name: torch.zeros(shape) for name, shape in names.items()}
    loss = {"region_projection.layers.3.weight": torch.zeros(4, 4)}
    joined = {f"encoder.{k}": v for k, v in encoder.items()} | {f"loss.{k}": v for k, v in loss.items()}
    first = {"encoder_state_dict": encoder, "loss_fn_state_dict": loss, "epoch": 3}
    aliases = {f"g2l_traversal.{name}": value for name, value in encoder.items()}
    settings = Namespace(batch_size=2, aggregator_mode="max", inner=Settings(), spaced=SimpleNamespace(path=Path("a")))
    trained = {**first, "encoder_state_dict": encoder | aliases, "config": settings}
    files = [first, joined, {"module": joined, "config": {"task": "dbbd"}, "state": {}}, trained]
    return [_saved(value) for value in files]


def environments() -> list[bytes]:
    first = {"started": "2026-01-01", "command": ["dbbd"], "versions": {"dbbd": "1"}, "git": None}
    return [json.dumps(value, indent=2).encode() for value in (first, {**first, "resumed": [first]})]
