"""The restricted unpickler reads plain values, arrays and tensors, runs no code, and stays within time and memory."""

import builtins
import contextlib
import copyreg
import functools
import io
import operator
import os
import pickle
import runpy
import struct
import subprocess
import sys
import time
import tracemalloc
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from dbbd_cli.data.scenes.pickles.arrays import load_plain
from dbbd_cli.data.scenes.pickles.machine import PickleMachine, RefusedPickleError, StandIn, Unbuilt

MARKER = "payload-was-run"


def run_payload() -> None:
    """What a stranger's code would do: leaves a file in the current folder."""
    Path(MARKER).touch()


CODE = f"open({MARKER!r}, 'w').close()"
COMMAND = f"touch {MARKER}"


class Call:
    """Pickles as a call of `function` with `arguments`, and perhaps a state that is set afterwards."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def stack_global(module, name):
    return short(module) + short(name) + b"\x93"


def storage_bytes(data_type="torch\nFloatStorage", count=1, raw=b"\0\0\0\0", identity=None):
    """What torch.save writes for a storage, first format."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    identity = identity or b"(X\x07\0\0\0storagec" + data_type.encode() + b"\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01Nt"
    return head + b"\x80\x02" + identity + b"Q." + pickle.dumps(["0"], 2) + struct.pack("<q", count) + raw


def from_bytes(payload):
    return b"\x80\x04" + stack_global("torch.storage", "_load_from_bytes") + pickle.dumps(payload, 4)[11:-1] + b"\x85R."


EVIL = pickle.dumps(Call(os.system, COMMAND))
FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0].__module__.encode().join([b"c", b"\n_frombuffer\n"])
DTYPE = b"cnumpy\ndtype\n(X\x02\0\0\0f4K\0K\x01tR(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


def object_array(item):
    array = np.empty(1, dtype=object)
    array[0] = item
    return array


def torch_saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


MALICIOUS = {
    # Calls by name, in every way that a pickle has.
    "os.system": EVIL,
    "os.system, protocol 0": pickle.dumps(Call(os.system, COMMAND), 0),
    "os.system after text, protocol 0": pickle.dumps(["text", Call(os.system, COMMAND)], 0),
    "os.system, protocol 2": pickle.dumps(Call(os.system, COMMAND), 2),
    "exec": pickle.dumps(Call(exec, CODE)),
    "eval": pickle.dumps(Call(eval, CODE)),
    "builtins of Python 2": b"c__builtin__\neval\nX" + struct.pack("<I", len(CODE)) + CODE.encode() + b"\x85R.",
    "import": pickle.dumps(Call(__import__, "antigravity")),
    "getattr": pickle.dumps(Call(getattr, Call(__import__, "os"), "system")),
    "partial": pickle.dumps(Call(functools.partial, run_payload)),
    "attrgetter": pickle.dumps(Call(operator.attrgetter, "system")),
    "methodcaller": pickle.dumps(Call(operator.methodcaller, "system", COMMAND)),
    "map": pickle.dumps(Call(map, exec, [CODE])),
    "Popen": pickle.dumps(Call(subprocess.Popen, ["touch", MARKER])),
    "runpy": pickle.dumps(Call(runpy._run_code, CODE, {})),
    "pickle.loads": pickle.dumps(Call(pickle.loads, EVIL)),
    "torch.load": pickle.dumps(Call(torch.load, "evil.pt")),
    "numpy runstring": (
        b"\x80\x04" + stack_global("numpy.testing._private.utils", "runstring") + short(CODE) + b"}\x86R."
    ),
    "own function": pickle.dumps(Call(run_payload)),
    "dotted name": b"\x80\x04" + stack_global("numpy", "ndarray.__class__.__subclasses__") + b")R.",
    "dotted way to os": b"\x80\x04" + stack_global("collections", "abc.sys.modules") + b".",
    "name made of parts": (
        b"\x80\x04" + short("os") + b"\x940" + short("system") + b"\x940h\0h\1\x93" + short(COMMAND) + b"\x85R."
    ),
    "INST": b"(X" + struct.pack("<I", len(COMMAND)) + COMMAND.encode() + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nX" + struct.pack("<I", len(COMMAND)) + COMMAND.encode() + b"o.",
    "NEWOBJ": b"\x80\x04" + stack_global("subprocess", "Popen") + short(COMMAND) + b"\x85\x81.",
    "NEWOBJ of an admitted name": b"\x80\x04" + stack_global("numpy", "ndarray") + b"K\x09\x85\x85\x81.",
    "extension code": b"\x80\x02\x82\xf0" + b")R.",
    "persistent id": b"\x80\x04" + short("x") + b"Q.",
    "text persistent id": b"Pxyz\n.",
    "buffer outside the file": b"\x80\x05\x97.",
    # Nested: in containers, arrays, tensors, and in pickles within the pickle.
    "in a scene": pickle.dumps({"coords": np.zeros((4, 3)), "hierarchy": {"children": [Call(run_payload)]}}),
    "as a key": pickle.dumps({"coords": 1, Call(run_payload): 2}),
    "in an array of objects": pickle.dumps(object_array(Call(run_payload))),
    "array of objects alone": pickle.dumps(object_array(None)),
    "structured array": pickle.dumps(np.zeros(1, [("a", "O")])),
    "subclass of an array": pickle.dumps(Call(np.zeros(1).__reduce__()[0], Call(run_payload), (0,), b"b")),
    "within a storage": from_bytes(EVIL),
    "within the id of a storage": from_bytes(storage_bytes(identity=EVIL[2:-1])),
    "type of a storage": from_bytes(storage_bytes(data_type="os\nsystem")),
    "storage within a storage": from_bytes(from_bytes(EVIL)),
    "storage made by torch.save": from_bytes(torch_saved(Call(run_payload), _use_new_zipfile_serialization=False)),
    "state of a dict": pickle.dumps(Call(OrderedDict, state={"__class__": Call(run_payload)})),
    "state of a name": b"\x80\x04" + stack_global("torch._utils", "_rebuild_tensor_v2") + b"}" + short("x") + b"K\1sb.",
    "state of a class": b"\x80\x04" + stack_global("numpy", "ndarray") + b"N}" + short("x") + b"K\1s\x86b.",
    "call of a text": b"\x80\x04" + short("os") + b")R.",
    "call of an array": b"\x80\x04K\x01)R.",
    "factory of a dict": pickle.dumps(Call(defaultdict, run_payload)),
    "tensor hooks": pickle.dumps(
        Call(torch._utils._rebuild_tensor_v2, None, 0, (), (), False, OrderedDict(hook=run_payload))
    ),
}  # fmt: skip

BOMBS = {
    "memo index": b"\x80\x04Nr\xff\xff\xff\x7f0N.",
    "long text": b"\x80\x04\x8d" + struct.pack("<Q", 10**12) + b"x.",
    "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 10**12) + b"x.",
    "long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 10**12) + b"x.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 10**15) + b"\x8b\xff\xff\xff\x7f.",
    "bytearray of a number": pickle.dumps(Call(bytearray, 10**12)),
    "bytes of a number": pickle.dumps(Call(bytes, 10**12)),
    "size of an array": (
        FROM_BUFFER + b"(C\x04\0\0\0\0" + DTYPE + b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85X\1\0\0\0CtR."
    ),
    "many empty lengths": FROM_BUFFER + b"(C\0" + DTYPE + b"(" + b"J\xff\xff\xff\x7f" * 50 + b"K\0tX\1\0\0\0CtR.",
    "count of a storage": from_bytes(storage_bytes(count=10**12)),
    "negative count of a storage": from_bytes(storage_bytes(count=-1)),
    "repeated tensor": pickle.dumps(torch.zeros(1).expand(10**10)),
    "tensor beyond its storage": pickle.dumps(torch.zeros(4)).replace(b"K\x00K\x04\x85", b"K\x02K\x04\x85"),
    "one payload many times": (
        b"\x80\x04" + stack_global("torch.storage", "_load_from_bytes") + b"\x94B" + struct.pack("<I", 2**20 + 400)
        + storage_bytes(count=2**18, raw=bytes(2**20)).ljust(2**20 + 400, b"\0") + b"\x940"
        + b"](" + b"h\0h\1\x85R" * 20_000 + b"e."
    ),
    "one list many times": (
        b"\x80\x04" + stack_global("builtins", "set") + b"\x94](" + b"K\1" * 10**5 + b"e\x94]("
        + b"h\0h\1\x85R" * 10**5 + b"e."
    ),
    "deep key": b"\x80\x04})" + b"\x85" * 200_000 + b"Ns.",
    "deep lists": b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_payload_that_runs_is_detected(tmp_path):
    pickle.loads(pickle.dumps(Call(run_payload)))
    assert Path(MARKER).exists()


@pytest.mark.skipif(os.name == "nt", reason="touch is no command there")
@pytest.mark.parametrize(
    "name", ["os.system", "exec", "INST", "OBJ", "name made of parts", "storage made by torch.save"]
)
def test_the_attacks_work_on_the_usual_unpickler(name, monkeypatch):
    # The control: were these attacks harmless by themselves, the tests below could not fail. They only make a file.
    monkeypatch.setattr(torch, "load", functools.partial(torch.load, weights_only=False))
    pickle.loads(MALICIOUS[name])
    assert Path(MARKER).exists()


@pytest.mark.parametrize("name", MALICIOUS)
def test_no_payload_runs(name):
    if 0xF0 not in copyreg._inverted_registry:
        copyreg.add_extension(__name__, "run_payload", 0xF0)
    with pytest.raises(ValueError) as caught:
        load_plain(MALICIOUS[name])
    assert not Path(MARKER).exists()
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("os.system", f"{os.system.__module__}.system"),
        ("os.system after text, protocol 0", f"{os.system.__module__}.system"),
        ("Popen", "subprocess.Popen"),
        ("INST", "os.system"),
        ("eval", "builtins.eval"),
        ("within a storage", f"{os.system.__module__}.system"),
        ("type of a storage", "os.system"),
        ("storage within a storage", "torch.storage._load_from_bytes"),
        ("dotted name", "numpy.ndarray.__class__.__subclasses__"),
        ("factory of a dict", "collections.defaultdict"),
    ],
)
def test_refused_code_is_named(name, wanted):
    with pytest.raises(RefusedPickleError) as caught:
        load_plain(MALICIOUS[name])
    assert f"refers to the code of {wanted}" in str(caught.value)


@pytest.mark.parametrize("name", BOMBS)
def test_no_file_fills_the_memory(name):
    data = BOMBS[name]
    harmless = {"memo index": type(None), "deep lists": list}
    is_traced = len(data) < 50_000  # tracing makes long loops several times slower
    if is_traced:
        tracemalloc.start()
    start = time.process_time()
    try:
        if name in harmless:  # these only hurt an unpickler that trusts them
            assert isinstance(load_plain(data), harmless[name])
        else:
            with pytest.raises(ValueError):
                load_plain(data)
        assert time.process_time() - start < 10
        assert not is_traced or tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_reading_one_storage_many_times_is_limited():
    payload = from_bytes(storage_bytes())
    function, argument = payload[2:].split(b"_load_from_bytes\x93")
    data = b"\x80\x04" + function + b"_load_from_bytes\x93q\x000" + argument[:-2] + b"q\x010]("
    with pytest.raises(ValueError, match="has more than 20,000 tensors"):
        load_plain(data + b"h\x00h\x01R" * 20_001 + b"e.")
    assert len(load_plain(data + b"h\x00h\x01R" * 5 + b"e.")) == 5


def test_building_an_object_many_times_takes_linear_time():
    built = []
    target = Unbuilt(lambda state: built.append(state) or state)
    memoized = b"".join(b"r" + struct.pack("<I", n) for n in range(9))
    data = b"\x80\x04" + stack_global("a", "b") + b")R" + memoized + b"22K\1bK\2bK\3bh\x08."
    data = data.replace(b"K\2b", b"0K\2b").replace(b"K\3b", b"0K\3b")
    machine = PickleMachine(io.BytesIO(data), {"a.b": StandIn("b", lambda: target)})
    assert machine.load() == 1  # what the first built is what the names mean; the others name nothing
    assert built == [1, 2, 3]
    assert target.memo_keys == []


LONGS = [n * (2**61 - 1) for n in range(8, 11)]


@pytest.mark.parametrize("value", [dict.fromkeys(LONGS), set(LONGS), frozenset(LONGS), {-(2**63) - 1: 1}])
def test_numbers_with_colliding_hashes_are_not_keys(value):
    for protocol in (2, 4):
        with pytest.raises(ValueError, match="too large"):
            load_plain(pickle.dumps(value, protocol))


@pytest.mark.parametrize("value", [{**dict.fromkeys(range(20_001))}, set(range(20_001)), frozenset(range(20_001))])
def test_numbers_that_could_collide_in_a_table_are_limited(value):
    with pytest.raises(ValueError, match="more than 20,000 keys, numbers among them"):
        load_plain(pickle.dumps(value, 4))


def test_ordinary_numbers_are_keys():
    value = {2**63 - 1: 1, -(2**63): 2, 0.5: 3, True: 4, None: 5, 10**9: {7}}
    assert load_plain(pickle.dumps(value)) == value


def test_a_tensor_beyond_its_storage_is_refused():
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        load_plain(BOMBS["tensor beyond its storage"])


def test_the_number_of_values_is_limited():
    data = b"\x80\x04" + b"N" * 1000 + b"."
    assert PickleMachine(io.BytesIO(data), {}, max_steps=1002).load() is None
    with pytest.raises(ValueError, match="has more than 1,001 values"):
        PickleMachine(io.BytesIO(data), {}, max_steps=1001).load()


VALUES = {
    "tensor": torch.arange(12.0).view(4, 3),
    "transposed": torch.arange(12.0).view(3, 4).t(),
    "slice": torch.arange(10)[3:6],
    "empty tensor": torch.zeros(0, 3),
    "tensor of one": torch.tensor(3.5),
    "half": torch.ones(3, dtype=torch.float16),
    "bool": torch.tensor([True, False]),
    "bytes tensor": torch.arange(5, dtype=torch.uint8),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "size": torch.zeros(2, 3).shape,
    "array": np.arange(6.0).reshape(2, 3),
    "Fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f8"),
    "empty array": np.zeros((0, 3)),
    "no axes": np.array(2.5),
    "scalar": np.float32(2.5),
    "text scalar": np.str_("room"),
    "numbers": [0, 255, 65535, -1, 2**40, -(2**70), 1.5, True, None],
    "text": ["", "x" * 300, "ü\ud800"],
    "bytes": [b"", b"y" * 300],
    "containers": (1, (2, 3), [4, {5: 6, "a": {}}], {7, 8}, frozenset([9]), (1, 2, 3, 4), OrderedDict(a=1)),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", VALUES)
def test_plain_values_come_back(name, protocol):
    value = VALUES[name]
    data = pickle.dumps({"value": value, "again": [value, value]}, protocol)
    found = load_plain(data)["again"][1]
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
    else:
        assert found == value
        assert type(found) is type(value) or name == "size"


def test_bfloat16_becomes_float32():
    found = load_plain(pickle.dumps(torch.tensor([1.5, -2.0, 3e38], dtype=torch.bfloat16)))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, torch.tensor([1.5, -2.0, 3e38], dtype=torch.bfloat16).float().numpy())


@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_module_names_of_old_and_new_numpy_are_known(core):
    data = pickle.dumps(np.arange(5), 2).replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", core)
    np.testing.assert_array_equal(load_plain(data), np.arange(5))


def test_shared_objects_and_cycles_are_preserved():
    tree = {"indices": np.arange(3)}
    tree["children"] = [tree]
    found = load_plain(pickle.dumps(tree))
    assert found["children"][0] is found


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # in text damaged at random
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_damaged_pickles_raise_a_documented_error(protocol):
    good = pickle.dumps(
        {"c": torch.arange(6.0).view(2, 3), "n": np.zeros((2, 3)), "l": [1, {"a": (2.5, "x")}]}, protocol
    )
    rng = np.random.default_rng(0)
    for cut in range(0, len(good) - 1, 3):
        with pytest.raises(ValueError):
            load_plain(good[:cut])
    for _ in range(1500):
        data = bytearray(good)
        for place in rng.integers(len(data), size=int(rng.integers(1, 4))):
            data[place] = rng.integers(256)
        with contextlib.suppress(ValueError):
            load_plain(bytes(data))
    assert "builtins" in sys.modules
    assert builtins.open is open


def test_an_invalid_opcode_is_damage() -> None:
    data = pickle.dumps(b"\xe9", 2).replace("\xe9".encode(), "\u20ac".encode()).replace(b"\x02\0\0\0", b"\x03\0\0\0")
    with pytest.raises(ValueError, match="is not a valid pickle") as caught:
        load_plain(data)
    assert type(caught.value) is ValueError


def test_other_files_are_called_damaged_rather_than_dangerous() -> None:
    with pytest.raises(ValueError, match="is not a valid pickle") as caught:
        load_plain(b"no pickle")
    assert not isinstance(caught.value, RefusedPickleError)
