"""Run the numeric tests as other processors would: with other instruction sets, kernels and numbers of threads.

Usage: python tests/processors.py [--only "NAME NAME"] [--list] [PYTEST OPTION ...]
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

ONEDNN_AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
PYTORCH_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2"}
MKL_AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}
# The names differ between versions of NumPy, which ignores unknown ones.
NUMPY_AVX2 = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512_SKX AVX512_ICL AVX512_SPR X86_V4",
    "OPENBLAS_CORETYPE": "Haswell",
}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "as-is": {},
    "threads-1": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "threads-2": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "onednn-avx2": ONEDNN_AVX2,
    "onednn-avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "onednn-avx512-bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "pytorch-default": {"ATEN_CPU_CAPABILITY": "default"},
    "pytorch-avx2": PYTORCH_AVX2,
    "mkl-avx2": MKL_AVX2,
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "numpy-avx2": NUMPY_AVX2,
    "all-avx2": {**ONEDNN_AVX2, **PYTORCH_AVX2, **MKL_AVX2, **NUMPY_AVX2},
    # tests/conftest.py makes PyTorch report these instructions, so that `auto` selects the precision accordingly.
    "auto-takes-bf16": {"DBBD_TEST_CPU": "avx512_bf16"},
    "auto-takes-fp32": {"DBBD_TEST_CPU": "none"},
}
"""The environments by name. They cannot enable instructions that the processor lacks."""

NUMERIC_TESTS = (
    "tests/guards",
    "tests/test_training_loop.py",
    "tests/unit/data/images/test_augment.py",
    "tests/unit/data/scenes/test_normals.py",
    "tests/unit/data/scenes/trees",
    "tests/unit/data/scenes/synthetic_rooms",
    "tests/unit/data/scenes/test_cache.py",
    "tests/unit/data/scenes/test_views.py",
    "tests/unit/engine",
    "tests/unit/model",
    "tests/unit/services",
    "tests/unit/tasks",
)


def run_tests(environment: str, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run pytest in an environment of `ENVIRONMENTS`, without the variables of the others.

    Args:
        environment: its name.
        tests: tests and options of pytest.
    """
    others = {name for variables in ENVIRONMENTS.values() for name in variables}
    variables = {name: value for name, value in os.environ.items() if name not in others}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=REPOSITORY,
        env={**variables, **ENVIRONMENTS[environment]},
        capture_output=True,
        text=True,
        check=False,
    )


def describe(variables: Mapping[str, str]) -> str:
    """Return the variables of an environment in shell syntax."""
    return " ".join(f"{name}={value!r}" if " " in value else f"{name}={value}" for name, value in variables.items())


def main() -> int:
    """Run the numeric tests in each environment; return 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAMES", help="environments, separated by spaces; all by default")
    parser.add_argument("--list", action="store_true", help="list the environments")
    options, pytest_options = parser.parse_known_args()
    chosen = options.only.split() or list(ENVIRONMENTS)
    if unknown := set(chosen) - set(ENVIRONMENTS):
        parser.error(f"unknown environment: {', '.join(sorted(unknown))}; available: {', '.join(ENVIRONMENTS)}")
    if options.list:
        for name in chosen:
            print(f"{name:20} {describe(ENVIRONMENTS[name])}")
        return 0
    failed = []
    for name in chosen:
        print(f"{name:20} {describe(ENVIRONMENTS[name])}", flush=True)
        start = time.perf_counter()
        done = run_tests(name, [*NUMERIC_TESTS, *pytest_options])
        if done.returncode:
            failed.append(name)
            print(done.stdout[-20_000:], done.stderr[-5_000:], sep="\n")
        verdict = "FAILED" if done.returncode else "passed"
        last_line = (done.stdout.strip().splitlines() or ["no output"])[-1]
        print(f"{'':20} {verdict} after {time.perf_counter() - start:.0f} s: {last_line}", flush=True)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} environments passed")
    if failed:
        print(f"Failed in: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
