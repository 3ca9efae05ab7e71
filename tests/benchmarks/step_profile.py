"""Profile a training step: the PyTorch operators that take most of its time.

Usage: python tests/benchmarks/step_profile.py qr_cnn|dbbd [--precision fp32|bf16] [--depth 3] [--rows 12]
"""

from __future__ import annotations

import argparse
import os

import image_cases
import scene_cases
from rich.console import Console
from tables import plain_table
from torch.profiler import ProfilerActivity, profile

WARM_UP_STEPS = 2


def main() -> None:
    """Run a few steps, and show where the last one spends its time, by operator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("qr_cnn", "dbbd"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--depth", type=int, default=3, help="depth of the trees (dbbd)")
    parser.add_argument("--rows", type=int, default=12, help="number of operators to show")
    options = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as `dbbd` itself does; read when the first threads start
    if options.task == "qr_cnn":
        loop = image_cases.make_loop(options.precision, WARM_UP_STEPS + 1)
    else:
        loop = scene_cases.make_loop(options.precision, options.depth)
    for _ in range(WARM_UP_STEPS):
        loop.step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        loop.step()
    operators = sorted(profiler.key_averages(), key=lambda operator: -operator.self_cpu_time_total)
    total = sum(operator.self_cpu_time_total for operator in operators)
    table = plain_table("operator", "calls", "share")
    for operator in operators[: options.rows]:
        table.add_row(operator.key, str(operator.count), f"{100 * operator.self_cpu_time_total / total:.1f} %")
    calls = sum(operator.count for operator in operators)
    table.add_row("all, including loading the batch", str(calls), f"{total / 1e6:.2f} s")
    Console().print(table)


if __name__ == "__main__":
    main()
