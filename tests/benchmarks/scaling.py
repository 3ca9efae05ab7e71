"""Measure how training scales with processes, and predict it for clusters: the tables of docs/scaling.md.

Usage: python tests/benchmarks/scaling.py [CONFIG …] [--steps N]       (Linux; in a network of its own: needs root)

For each configuration, on synthetic data: the median time of a step in one process, and in two that share its batch,
each on one processor; and the bytes that a process sends in a step, counted by the system. From these and from the
figures of GPUs and networks in `CLUSTERS`, a model predicts the time of a step on many GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from tables import plain_table

CONFIGS = ("qr_cnn", "qr_resnet18", "qr_url", "dbbd_scannet")
SETTINGS: dict[str, dict[str, Any]] = {
    "qr_cnn": {"data": {"source": "synthetic", "sample_per_class": 100}, "training": {"batch_size": 8}},
    "qr_resnet18": {"data": {"source": "synthetic", "sample_per_class": 200}, "training": {"batch_size": 16}},
    "qr_url": {"data": {"source": "synthetic", "sample_per_class": 2000}, "training": {"batch_size": 64}},
    "dbbd_scannet": {
        "data": {"source": "synthetic", "synthetic_scenes": 12, "synthetic_points": 20_000},
        "training": {"batch_size": 2},
    },
}
"""Smaller than the defaults, so that two processors take at most some seconds for a step."""
WARM_UP = 3
MIB = 2**20


@dataclass(frozen=True)
class Cluster:
    """GPUs and the network between them.

    Attributes:
        name: in words.
        flops: floating-point operations per second that training reaches on a GPU.
        inside: bytes per second from a GPU to another one of its machine.
        outside: bytes per second from a GPU to another machine.
        latency: seconds of one exchange between two GPUs.
        per_machine: GPUs of a machine.
    """

    name: str
    flops: float
    inside: float
    outside: float
    latency: float
    per_machine: int


CLUSTERS = (
    # 40% of 989 TFLOPS in bf16, NVLink at 450 GB/s in a direction, a 400 Gb/s adapter for each GPU; 80% of a link.
    Cluster("H100, NVLink, InfiniBand 400 Gb/s", 0.4 * 989e12, 0.8 * 450e9, 0.8 * 50e9, 5e-6, 8),
    # 30% of 121 TFLOPS in bf16, PCIe 4.0, one adapter of 100 Gb/s for the 8 GPUs of a machine.
    Cluster("L4, PCIe, Ethernet 100 Gb/s", 0.3 * 121e12, 0.8 * 25e9, 0.8 * 12.5e9 / 8, 20e-6, 8),
)
GPUS = (1, 8, 64, 512)
LEAST_SECONDS = 5e-3
"""A step takes at least this, because a thousand kernels are launched for it."""


@dataclass(frozen=True)
class Step:
    """What a step takes.

    Attributes:
        samples: samples of a batch of all processes together.
        parameters: trained parameters.
        seconds: median time of a step.
        exchange: median time of summing up as many bytes as the gradient has.
        sent: bytes that a process sends in a step.
        points: of these, the rows of points that DBBD compares, of which a batch has the same number on any number of
            processes; 0 for other tasks.
    """

    samples: int
    parameters: int
    seconds: float
    exchange: float
    sent: float
    points: float


def reduced_bytes(parameters: int, processes: int) -> float:
    """Bytes that a process sends to average gradients in fp32: 2 (N - 1) / N of them, in a ring."""
    return 4 * parameters * 2 * (processes - 1) / processes


@dataclass(frozen=True)
class Waiting:
    """Bytes of a step for which computing waits.

    Attributes:
        summed: statistics, such as those of batch normalization, that are summed up over processes.
        rows: rows of a process that all others need, such as the regions of DBBD.
        shared_rows: rows of all processes together that all need, such as the points of DBBD.
    """

    summed: float = 0.0
    rows: float = 0.0
    shared_rows: float = 0.0


def predicted(compute: float, parameters: int, waiting: Waiting, processes: int, cluster: Cluster) -> float:
    """Seconds of a step on so many GPUs.

    Gradients are averaged in a ring inside each machine, and in a ring over machines, each GPU a part; what of that
    does not fit beside the backward pass, two thirds of computing, is added. So is that for which computing waits,
    without its latency.

    Args:
        compute: seconds of computing.
        parameters: trained parameters.
        waiting: what else is exchanged.
        processes: number of GPUs.
        cluster: what they are.
    """
    if processes == 1:
        return compute
    inside = min(processes, cluster.per_machine)
    machines = max(processes // cluster.per_machine, 1)
    exchange = reduced_bytes(parameters, inside) / cluster.inside + 2 * (inside - 1) * cluster.latency
    exchange += reduced_bytes(parameters, machines) / inside / cluster.outside + 2 * (machines - 1) * cluster.latency
    last = exchange / max(4 * parameters / (25 * MIB), 1)  # the last bucket of gradients, after which nothing computes
    link = cluster.inside if machines == 1 else cluster.outside
    waited = (waiting.rows + (waiting.shared_rows + 2 * waiting.summed) / processes) * (processes - 1) / link
    return compute + max(exchange - 2 / 3 * compute, last) + waited


def measure(config: str, steps: int) -> Step:
    """Train some steps as one of the processes that the environment names."""
    import torch
    from torch import distributed

    from dbbd_cli.core.processes import from_environment
    from dbbd_cli.core.progress import Silent
    from dbbd_cli.engine.processes import joined
    from dbbd_cli.engine.trainer import train_step
    from dbbd_cli.services.preparation import prepare_run
    from dbbd_cli.services.training import build_trainer
    from dbbd_cli.tasks.configs import load_config
    from dbbd_cli.tasks.dbbd.config import DbbdConfig

    with joined(from_environment(os.environ), timeout=600) as processes:
        settings = json.loads(json.dumps(SETTINGS[config]))
        settings["training"]["batch_size"] //= processes.size
        with processes.in_turns():
            checked, manifest = prepare_run(load_config(config, overrides_of(settings)), Silent())
        trainer, _ = build_trainer(checked, manifest, Silent(), processes)
        trainer.module.train()
        seconds, sent = [], []
        while len(seconds) < steps + WARM_UP:
            trainer.state.batch = 0
            for batch in islice(
                trainer.workload.loaders["train"].batches(1), len(trainer.workload.loaders["train"]) - 1
            ):
                processes.wait()
                before, start = sent_bytes(), time.perf_counter()
                train_step(trainer, [batch])
                seconds.append(time.perf_counter() - start)
                processes.wait()
                sent.append(sent_bytes() - before)
                if len(seconds) == steps + WARM_UP:
                    break
        parameters = sum(p.numel() for p in trainer.module.parameters() if p.requires_grad)
        exchange = []
        if processes.size > 1:
            gradient = torch.zeros(parameters)
            for _ in range(steps):
                processes.wait()
                start = time.perf_counter()
                distributed.all_reduce(gradient)
                exchange.append(time.perf_counter() - start)
        share = median(sent[WARM_UP:]) / processes.size
        points = 0.0
        if isinstance(checked, DbbdConfig):  # projected for the loss, and as they are for the metrics, of both branches
            channels = checked.model.projection_dim + checked.model.output_dim
            points = 2 * 4 * checked.loss.point_samples * channels / processes.size
        return Step(trainer.batch_size, parameters, median(seconds[WARM_UP:]), median(exchange or [0.0]), share, points)


def overrides_of(settings: dict[str, Any]) -> list[Any]:
    """Changes to a configuration."""
    from dbbd_cli.config.load import Override

    given = [
        Override(f"{part}.{key}", value, part) for part, values in settings.items() for key, value in values.items()
    ]
    return [*given, Override("run.device", "cpu", "run"), Override("run.precision", "fp32", "run")]


def sent_bytes() -> int:
    """Bytes that the processes of this network have sent so far."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[9]) for line in lines if line.strip().startswith("lo:")), 0)


def in_processes(config: str, processes: int, steps: int) -> Step:
    """Run `measure` in processes that have one processor each, in a network of their own."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = " ".join([*torchrun, __file__, config, "--steps", str(steps), "--measure"])
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"ip link set lo up && {command}"],
        env=env, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return Step(**json.loads(done.stdout.splitlines()[-1]))


def operations(config: str) -> tuple[float, int, int]:
    """Floating-point operations of a step, its samples and the parameters of a configuration, at its full size."""
    from torch.utils.flop_counter import FlopCounterMode

    from dbbd_cli.core.progress import Silent
    from dbbd_cli.services.preparation import prepare_run
    from dbbd_cli.services.training import build_trainer
    from dbbd_cli.tasks.configs import load_config

    settings = json.loads(json.dumps(SETTINGS[config]))
    samples = settings["training"].pop("batch_size")
    checked, manifest = prepare_run(
        load_config(config, overrides_of({**settings, "training": {"batch_size": samples}})), Silent()
    )
    trainer, _ = build_trainer(checked, manifest, Silent())
    batch = next(iter(trainer.workload.loaders["train"].batches(1)))
    with FlopCounterMode(display=False) as counter:
        output = trainer.network(*trainer.workload.to_device(batch, trainer.runtime.device, train=True))
        output.loss.backward()
    parameters = sum(p.numel() for p in trainer.module.parameters() if p.requires_grad)
    full = load_config(config).training.batch_size
    return counter.get_total_flops() * full / samples, full, parameters


def filled(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table with these rows."""
    table = plain_table(*heads)
    for row in rows:
        table.add_row(*row)
    return table


def main() -> None:
    """Measure, predict and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help=f"default: {' '.join(CONFIGS)}")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if other := set(arguments.configs) - set(CONFIGS):  # argparse would check the list of defaults as a choice
        parser.error(f"{' '.join(other)}: choose from {' '.join(CONFIGS)}")
    if arguments.measure:
        found = measure(arguments.configs[0], arguments.steps)
        if os.environ.get("RANK", "0") == "0":
            sys.stdout.write(json.dumps(asdict(found)) + "\n")
        return
    console = Console(width=130)
    rows, forecasts = [], []
    for config in arguments.configs or CONFIGS:
        one, two = (in_processes(config, number, arguments.steps) for number in (1, 2))
        # Each of two processes computes half of the batch; the exchange runs beside the backward pass where it can.
        slowest = one.seconds / 2 + two.exchange
        rows.append([
            config, f"{one.parameters:,}", f"{one.samples}", f"{one.samples / one.seconds:.1f}",
            f"{two.samples / two.seconds:.1f}", f"{one.seconds / two.seconds:.2f}",
            f"{one.seconds / max(one.seconds / 2, slowest):.2f}",
            f"{two.sent / 1e6:.2f}", f"{reduced_bytes(two.parameters, 2) / 1e6:.2f}",
        ])  # fmt: skip
        flops, samples, parameters = operations(config)
        others = max(two.sent - reduced_bytes(two.parameters, 2), 0)
        regions = (others - two.points) * samples * 2 / two.samples
        kinds = {config: Waiting(summed=others)}
        if two.points:
            kinds = {config: Waiting(rows=regions, shared_rows=2 * two.points), f"{config}, local": Waiting()}
        for (name, waiting), cluster in product(kinds.items(), CLUSTERS):
            compute = max(flops / cluster.flops, LEAST_SECONDS)
            times = [predicted(compute, parameters, waiting, number, cluster) for number in GPUS]
            forecasts.append([
                name, cluster.name, f"{samples}", f"{flops / 1e9:,.0f}",
                *(f"{1e3 * seconds:.2f} ({times[0] / seconds:.0%})" for seconds in times),
            ])  # fmt: skip
    heads = ["configuration", "parameters", "samples", "1 process/s", "2 processes/s", "speedup", "without overlap"]
    console.print(filled([*heads, "MB sent", "predicted"], rows))
    heads = ["configuration", "cluster", "samples per GPU", "GFLOP", *(f"{number} GPUs, ms" for number in GPUS)]
    console.print(filled(heads, forecasts))


if __name__ == "__main__":
    main()
