"""Cases are well-formed, and their results are judged, compared and shown correctly, whatever the measured times."""

from __future__ import annotations

import inspect
import io
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import bench
import pytest
import tables
from cases import CASES, Case
from measure import Measured, alternately, spread
from rich.console import Console

MACHINE = {
    "gemm_fp32": 162.0, "gemm_bf16": 406.0, "copy_gbs": 29.0,
    "cpu": "a processor", "threads": 2, "torch": "2", "python": "3",
}  # fmt: skip


def synthetic_result(repeat: int, score: float) -> Measured:
    return Measured(seconds=0.25, score=score, spread=0.02, reference={"gemm_fp32": 160.0}, details={"repeat": repeat})


def row(
    score: float | None = 70.0, *, name: str = "synthetic", better: str = "higher", **changes: Any
) -> dict[str, Any]:
    bounds = (65, 50) if better == "higher" else (100, 125)
    case = Case(name, "test_bench.synthetic_result", "% of G", better, *bounds, 2000)  # type: ignore[arg-type]
    return bench.row_of(case, {"seconds": 0.5, "score": score, "peak_mb": 900.0, "spread": 0.02, **changes})


def shown(report: dict[str, Any], old: dict[str, Any] | None = None, width: int = 80) -> str:
    stream = io.StringIO()
    bench.show(Console(file=stream, width=width), report, old)
    return stream.getvalue()


def test_every_case_names_a_function_and_fits_it() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    for case in CASES:
        module, _, function = case.function.partition(".")
        inspect.signature(getattr(import_module(module), function)).bind(5, **case.settings)
        if case.target is not None and case.limit is not None:
            assert (case.limit <= case.target) if case.better == "higher" else (case.limit >= case.target)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (row(70.0), "met"),
        (row(65.0), "met"),
        (row(64.9), "missed"),
        (row(49.9), "FAILED"),
        (row(100.0, better="lower"), "met"),
        (row(110.0, better="lower"), "missed"),
        (row(130.0, better="lower"), "FAILED"),
        (row(70.0, peak_mb=2001.0), "FAILED"),
        (row(None, error="exit code 1"), "FAILED"),
        (row(None, skipped="no GPU"), "skipped"),
    ],
)
def test_verdict_and_exit_code(measured: dict[str, Any], expected: str) -> None:
    assert tables.verdict(measured) == expected
    assert bench.exit_code({"cases": [row(70.0), measured]}) == (expected == "FAILED")


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_all_cases_fits(width: int) -> None:
    rows = [bench.row_of(case, {"seconds": 0.1234, "score": 1234.5, "peak_mb": 12345.6}) for case in CASES]
    text = shown({"machine": MACHINE, "cases": rows}, {"cases": rows}, width)
    assert "…" not in text
    for case in CASES:
        assert text.count(f"\n{case.name} ") == 2  # in the results and in the comparison


def test_errors_are_shown() -> None:
    text = shown({"machine": MACHINE, "cases": [row(None, error="exit code 1: [Errno 2]")]})
    assert "synthetic: error: exit code 1: [Errno 2]" in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (row(70.0), row(60.0), "worse"),
        (row(70.0), row(80.0), "better"),
        (row(100.0, better="lower"), row(120.0, better="lower"), "worse"),
        (row(100.0, better="lower"), row(80.0, better="lower"), "better"),
        (row(70.0), row(68.0), ""),  # below 5%
        (row(70.0, spread=0.1), row(60.0, spread=0.1), ""),  # within the spread of both
    ],
)
def test_changes_within_the_noise_are_not_reported(old: dict[str, Any], new: dict[str, Any], expected: str) -> None:
    assert tables.change(old, new) == expected


def test_markdown_for_the_documentation() -> None:
    line = tables.markdown([row(70.0)]).splitlines()[-1]
    assert line == "| `synthetic` | 500 ms | 70 % of G | ≥ 65 | 50 | 900 | met |"


def test_a_comparison_uses_the_current_limits() -> None:
    text = shown({"machine": MACHINE, "cases": [row(60.0)]}, {"cases": [{**row(40.0), "limit": 10, "target": 20}]})
    assert "missed" in text
    assert "+50.0 %" in text


def test_functions_are_called_alternately() -> None:
    calls: list[float] = []

    def calling(number: float) -> float:
        calls.append(number)
        return number + len(calls)

    columns = alternately([lambda: calling(10), lambda: calling(20)], repeat=2, warm_up=1)
    assert calls == [10, 20, 10, 20, 10, 20]
    assert columns == [[13, 15], [24, 26]]


def test_spread_is_relative() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert spread([7.0]) == 0.0


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cases = (Case("good", "test_bench.synthetic_result", "% of G", "higher", 65, 50, settings={"score": 70.0}),)
    monkeypatch.setattr(bench, "CASES", cases)
    monkeypatch.setattr(
        bench, "in_process", lambda name, repeat, _: MACHINE if name == "machine" else bench.measure_here(name, repeat)
    )
    out = tmp_path / "bench.json"
    assert bench.main(["--out", str(out), "--repeat", "3"]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["machine"] == MACHINE
    (only,) = report["cases"]
    assert {"name": "good", "seconds": 0.25, "score": 70.0, "target": 65, "limit": 50}.items() <= only.items()
    assert only["peak_mb"] > 1
    assert only["details"] == {"repeat": 3}
    assert bench.main(["--out", str(out), "--compare", str(out), "--only", "good"]) == 0
    assert "+0.0 %" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        bench.main(["--only", "bad"])
    assert stop.value.code == 2


def test_a_case_that_fails_in_its_process_is_reported(tmp_path: Path) -> None:
    measured = bench.in_process("no-such-case", 1, tmp_path)
    assert measured["error"].startswith("exit code 1: ")
