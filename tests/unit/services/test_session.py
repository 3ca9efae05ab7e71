"""A run keeps its precision on every processor, and says what has changed since its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.config.load import parse_override
from dbbd_cli.core.errors import CheckpointError, ConfigError
from dbbd_cli.engine.checkpoint.files import load_checkpoint
from dbbd_cli.model.digest import save_with_digest
from dbbd_cli.services.evaluate import evaluate
from dbbd_cli.services.resume import resume
from dbbd_cli.services.train import train
from dbbd_cli.services.validate import validate
from unit.services.shown_runs import Shown

Make = Callable[..., Any]
FP32 = [parse_override("run.precision=fp32")]
MORE = [parse_override("training.epochs=2")]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that the processor has exactly these instructions, and that nothing limits oneDNN."""

    def pretend(*instructions: str) -> None:
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True), raising=False)

    return pretend


def changed(run: Path, **parts: object) -> Path:
    """The newest checkpoint of a run with parts replaced; None removes a part."""
    checkpoint = {**load_checkpoint(run / "ckpt.pth"), **parts}
    (run / "ckpt.pth").unlink()
    save_with_digest({name: part for name, part in checkpoint.items() if part is not None}, run / "ckpt.pth")
    return run / "ckpt.pth"


def test_a_run_started_in_bf16_keeps_it_on_a_processor_without_it_with_a_warning(
    tiny_config: Make, processor: Callable[..., None]
) -> None:
    processor("avx512_bf16")
    shown = Shown()
    run = train(tiny_config(training__epochs=1), progress=shown).run
    assert shown.rows["Precision"] == "bf16 (chosen by auto)"
    assert not shown.warnings
    logged = validate(run).logged
    processor()

    shown = Shown()
    result = validate(run, progress=shown)
    assert result.precision == "bf16 (kept from the run)"
    assert result.metrics == logged  # only what the processor is taken for has changed
    assert len(shown.warnings) == 1
    assert "bf16 is slow here" in shown.warnings[0]
    assert "--set run.precision=fp32" in shown.warnings[0]

    shown = Shown()
    report = evaluate(run, plots=False, progress=shown).report
    assert report["efficiency"]["precision"] == "bf16 (kept from the run)"  # type: ignore[index]
    assert "bf16 is slow here" in shown.warnings[0]

    shown = Shown()
    resume(run, overrides=MORE, progress=shown)
    assert shown.rows["Precision"] == "bf16 (kept from the run)"
    assert "bf16 is slow here" in shown.warnings[0]
    checkpoint = load_checkpoint(run / "ckpt.pth")
    assert checkpoint["runtime"]["precision"] == "bf16"
    assert checkpoint["config"]["run"]["precision"] == "auto"


def test_a_run_started_in_fp32_keeps_it_on_a_processor_with_bf16(
    tiny_config: Make, processor: Callable[..., None]
) -> None:
    processor()
    run = train(tiny_config(training__epochs=1)).run
    processor("amx_bf16")
    assert validate(run).precision == "fp32 (kept from the run)"


def test_a_precision_on_the_command_line_overrides_that_of_the_run(
    tiny_config: Make, processor: Callable[..., None]
) -> None:
    processor("avx512_bf16")
    run = train(tiny_config(training__epochs=1)).run
    processor()
    shown = Shown()
    assert validate(run, overrides=FP32, progress=shown).precision == "fp32"
    assert not shown.warnings
    assert validate(run, overrides=[parse_override("run.precision=auto")]).precision == "fp32 (chosen by auto)"
    shown = Shown()
    resume(run, overrides=[*MORE, *FP32], progress=shown)
    assert "The run has been trained in bf16 so far, and continues in fp32." in shown.lines
    assert load_checkpoint(run / "ckpt.pth")["runtime"]["precision"] == "fp32"


def test_auto_is_fp32_for_dbbd_on_every_processor(tiny_point_config: Make, processor: Callable[..., None]) -> None:
    processor("amx_bf16", "avx512_bf16")
    shown = Shown()
    run = train(tiny_point_config(training__epochs=1), progress=shown).run
    assert shown.rows["Precision"] == "fp32 (chosen by auto)"
    assert load_checkpoint(run / "ckpt.pth")["runtime"]["precision"] == "fp32"


def test_a_run_in_fp16_is_refused_on_a_cpu(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    recorded = load_checkpoint(run / "ckpt.pth")["runtime"]
    path = changed(run, runtime={**recorded, "device": "cuda", "precision": "fp16"})
    for use in (validate, evaluate, resume):
        with pytest.raises(ConfigError, match="in which the run was trained on cuda") as caught:
            use(path)  # type: ignore[operator]
        assert "--set run.precision=fp32" in caught.value.hint
    assert validate(path, overrides=FP32).precision == "fp32"


@pytest.mark.parametrize(
    "wrong",
    [3, {}, {"precision": "fp8"}, {"precision": "auto"}, {"device": "\x1b[2J"}, {"threads": "2"}, {"processor": 1}],
    ids=str,
)
def test_an_invalid_record_is_refused(wrong: object, tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    recorded = load_checkpoint(run / "ckpt.pth")["runtime"]
    path = changed(run, runtime={**recorded, **wrong} if isinstance(wrong, dict) and wrong else wrong)
    with pytest.raises(CheckpointError, match="its record of device and precision is invalid"):
        validate(path)


def test_resume_reports_changed_threads_and_processors(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    shown = Shown()
    resume(run, overrides=MORE, progress=shown)
    assert not [line for line in shown.lines if "last digits" in line]

    recorded = load_checkpoint(run / "ckpt.pth")["runtime"]
    for change in ({"threads": recorded["threads"] + 3}, {"processor": "another one\x1b"}, {"device": "cuda"}):
        changed(run, runtime={**recorded, **change})
        shown = Shown()
        resume(run, overrides=[parse_override("training.epochs=2")], progress=shown)
        (line,) = [line for line in shown.lines if "last digits" in line]
        assert line.startswith("The run has been computed on ")
        assert "\x1b" not in line
        for value in change.values():
            assert str(value).rstrip("\x1b") in line


def test_a_checkpoint_of_a_task_that_is_not_installed_says_so(tiny_config: Make) -> None:
    run = train(tiny_config(training__epochs=1)).run
    config = load_checkpoint(run / "ckpt.pth")["config"]
    path = changed(run, config={**config, "task": "other", "data": {**config["data"], "source": "elsewhere"}})
    for command in (resume, validate, evaluate):
        with pytest.raises(CheckpointError, match="there is no task 'other'") as caught:
            command(path)
        assert "install" in caught.value.hint


def test_the_cleaning_of_urls_is_fixed_for_a_run_and_keeps_them_in_runs_that_know_no_cleaning(
    tiny_config: Make,
) -> None:
    run = train(tiny_config(training__epochs=1)).run
    with pytest.raises(ConfigError, match="cannot change") as caught:
        validate(run, overrides=[parse_override("data.urls.scheme=strip")])
    assert caught.value.details == ["data.urls.scheme is 'keep' in the run, not 'strip'"]
    config = load_checkpoint(run / "ckpt.pth")["config"]
    del config["data"]["urls"]
    measured = validate(changed(run, config=config))
    assert measured.metrics["loss"] == pytest.approx(measured.logged["loss"], rel=1e-4)
