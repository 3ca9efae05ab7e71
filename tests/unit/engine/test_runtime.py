"""Device and precision are chosen as documented, and every random generator is seeded, saved and restored."""

from __future__ import annotations

import random
from dataclasses import asdict

import numpy as np
import pytest
import torch

from dbbd_cli.core.errors import ConfigError
from dbbd_cli.engine.runtime import (
    RuntimeRecord,
    _keep_blocks,
    choose_runtime,
    keep_freed_memory,
    random_state,
    restore_random_state,
    seed_everything,
)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_every_random_generator_is_seeded_saved_and_restored() -> None:
    seed_everything(5)
    first = draw()
    state = random_state()
    second = draw()
    restore_random_state(state)
    assert draw() == second
    seed_everything(5)
    assert draw() == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_random_state_survives_a_checkpoint(tmp_path: object) -> None:
    import io

    buffer = io.BytesIO()
    torch.save(random_state(), buffer)
    expected = draw()
    buffer.seek(0)
    restore_random_state(torch.load(buffer, weights_only=True))
    assert draw() == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_an_error_never_a_fallback() -> None:
    for name in ("cuda", "cuda:3"):
        with pytest.raises(ConfigError) as caught:
            choose_runtime(name, "auto")
        assert f"{name} is not available here" in caught.value.message
        assert "auto, " in caught.value.hint
        assert "cpu" in caught.value.hint


def test_auto_says_what_it_chose() -> None:
    runtime = choose_runtime("auto", "auto")
    assert runtime.description.endswith("chosen by auto")
    assert runtime.precision.endswith("(chosen by auto)")
    assert choose_runtime("cpu", "fp32").precision == "fp32"


@pytest.mark.parametrize(
    ("instructions", "chosen"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32"), ({}, "fp32")],
)
def test_auto_chooses_bf16_only_if_the_processor_has_instructions_for_it(
    instructions: dict[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    runtime = choose_runtime("cpu", "auto")
    assert runtime.precision == f"{chosen} (chosen by auto)"
    assert (runtime.dtype == torch.bfloat16) == (chosen == "bf16")
    assert not runtime.is_slow
    assert choose_runtime("cpu", "auto", bf16_on_cpu=False).dtype == torch.float32
    assert choose_runtime("cpu", "bf16").is_slow == (chosen == "fp32")


@pytest.mark.parametrize(
    ("limit", "chosen"), [("avx2", "fp32"), ("AVX512_CORE", "fp32"), ("AVX512_CORE_BF16", "bf16"), ("DEFAULT", "bf16")]
)
def test_auto_respects_a_limit_on_the_instructions_of_onednn(
    limit: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    runtime = choose_runtime("cpu", "auto")
    assert runtime.precision == f"{chosen} (chosen by auto)"
    assert f"ONEDNN_MAX_CPU_ISA={limit}" in runtime.record().processor


def test_auto_keeps_the_precision_of_a_run_unless_another_is_given() -> None:
    recorded = RuntimeRecord("cuda", "bf16", threads=8, processor="another")
    assert choose_runtime("cpu", "auto", bf16_on_cpu=False, recorded=recorded).precision == "bf16 (kept from the run)"
    assert choose_runtime("cpu", "fp32", recorded=recorded).precision == "fp32"


def test_a_record_holds_what_determines_the_last_digits() -> None:
    record = choose_runtime("cpu", "bf16").record()
    assert (record.device, record.precision, record.threads) == ("cpu", "bf16", torch.get_num_threads())
    assert torch.backends.cpu.get_cpu_capability() in record.processor
    assert RuntimeRecord.from_plain(asdict(record)) == record
    with pytest.raises(ValueError, match="record of device and precision"):
        RuntimeRecord.from_plain({**asdict(record), "precision": "auto"})


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (2**40, [(-3, 2**30), (-1, 2**31 - 1)]),
        (2**25, [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]),
        (0, [(-3, 2**30), (-3, 2**25)]),
    ],
)
def test_memory_settings_refused_by_the_c_library_are_not_half_applied(
    most: int, expected: list[tuple[int, int]]
) -> None:
    calls = []

    def mallopt(name: int, value: int) -> int:
        calls.append((name, value))
        return int(name == -1 or value <= most)

    _keep_blocks(mallopt)
    assert calls == expected


def test_keeping_freed_memory_works_with_any_c_library() -> None:
    keep_freed_memory()
    assert torch.zeros(10**7).sum() == 0


def test_fp16_on_the_cpu_is_refused_and_bf16_works() -> None:
    with pytest.raises(ConfigError, match="fp16 is for GPUs"):
        choose_runtime("cpu", "fp16")
    with choose_runtime("cpu", "bf16").autocast():
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
