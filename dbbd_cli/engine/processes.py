"""The processes that train together: who this one is, and what all of them agree on.

Each runs the whole program; PyTorch's launcher, SLURM or a user has started it and says so in its environment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dbbd_cli.core.compat import data_parallel
from dbbd_cli.core.errors import ConfigError
from dbbd_cli.data.loader import Share
from dbbd_cli.engine.state import Sums
from dbbd_cli.model.processes import Shared, share_layers, shared_batch

TORCH = {"rank": "RANK", "local_rank": "LOCAL_RANK", "size": "WORLD_SIZE"}
"""Variables by which torchrun tells a process who it is; it also sets MASTER_ADDR and MASTER_PORT."""
SLURM = {"rank": "SLURM_PROCID", "local_rank": "SLURM_LOCALID", "size": "SLURM_STEP_NUM_TASKS"}
"""The same for `srun`."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: its number among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def any_of(self, number: int) -> int:
        """The largest number that a process has; all call this at the same time."""
        if self.size == 1:
            return number
        largest = torch.tensor([number])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def all_of(self, finite: torch.Tensor) -> torch.Tensor:
        """Whether `finite` `()` is true in all processes, on its device."""
        if self.size == 1:
            return finite
        every = finite.to(torch.int32)
        distributed.all_reduce(every, distributed.ReduceOp.MIN)
        return every.bool()

    def added_up(self, sums: Sums) -> Sums:
        """The sums of all processes, in the order of their ranks, so that all get the same."""
        if self.size == 1:
            return sums
        every = [json.loads(text) for text in _gathered(json.dumps(sums.plain()), self.size)]
        values: dict[str, float] = {}
        for part in every:
            for name, value in part["values"].items():
                values[name] = values.get(name, 0.0) + value
        return Sums(values, sum(part["num_samples"] for part in every))

    @contextmanager
    def sharing(self, share: Share, network: nn.Module, *, is_last: bool = True) -> Iterator[None]:
        """Within the context, the network computes a share of a batch; gradients are exchanged after the last one."""
        if self.size == 1:
            yield
            return
        assert isinstance(network, DistributedDataParallel)
        with shared_batch(Shared(share.samples, share.total)), nullcontext() if is_last else network.no_sync():
            yield

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over processes; itself if there is only one."""
        if self.size == 1:
            return module
        share_layers(module)
        return data_parallel(module)


def _gathered(text: str, size: int) -> list[str]:
    """The texts of all processes."""
    own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    distributed.all_gather(lengths, torch.tensor([len(own)]))
    longest = max(int(length) for length in lengths)
    texts = [own.new_zeros(longest) for _ in range(size)]
    distributed.all_gather(texts, F.pad(own, (0, longest - len(own))))
    return [bytes(text[: int(length)].tolist()).decode() for text, length in zip(texts, lengths, strict=True)]


ALONE = Processes()


def from_environment(environment: Mapping[str, str]) -> Processes:
    """Who this process is, as torchrun or `srun` says.

    Raises:
        ConfigError: they contradict themselves.
    """
    for names in (TORCH, SLURM):
        if names["size"] in environment and names["rank"] in environment:
            try:
                found = Processes(**{key: int(environment.get(name, "0")) for key, name in names.items()})
            except ValueError as error:
                raise ConfigError(f"{', '.join(names.values())} must be numbers: {error}") from error
            if not 0 <= found.rank < found.size:
                raise ConfigError(
                    f"{names['rank']} is {found.rank}, and {names['size']} {found.size}",
                    hint="start the program by torchrun, by srun, or with --nproc",
                )
            return found
    return ALONE


@contextmanager
def joined(processes: Processes, *, timeout: float) -> Iterator[None]:
    """Within the context, processes can exchange what they compute.

    Args:
        processes: who this one is.
        timeout: seconds to wait for the others before giving up.
    """
    if processes.size == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend, rank=processes.rank, world_size=processes.size, timeout=timedelta(seconds=timeout)
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()
