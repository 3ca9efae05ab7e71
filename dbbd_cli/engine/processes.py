"""The processes that train together: how they meet, and what all of them agree on.

Each runs the whole program, started by PyTorch's launcher or by SLURM; `core.processes` says who it is.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from itertools import chain, islice
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dbbd_cli.core.compat import data_parallel
from dbbd_cli.core.errors import ConfigError, DataError, ProcessError
from dbbd_cli.core.processes import Member
from dbbd_cli.data.loader import Share
from dbbd_cli.engine.state import Sums
from dbbd_cli.model.processes import Shared, share_layers, shared_batch

_Found = TypeVar("_Found")

_FAILED = 1000
"""Stands for a failure where processes exchange the number of a signal; larger than any signal."""


class Processes(Member):
    """The processes that train together, and who this one is among them. All call its methods at the same time."""

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self._largest(0)

    @contextmanager
    def in_turns(self) -> Iterator[None]:
        """Enter the context first in one process of each machine, then in the others: they find what it has cached."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()

    def agreed(self, number: int) -> int:
        """The largest number that a process has, such as that of a signal.

        Raises:
            DataError: another process has called `fail`.
        """
        largest = self._largest(number)
        if largest == _FAILED:
            self._raise_together(None)
        return largest

    def fail(self, error: DataError) -> NoReturn:
        """Raise the error in all processes, in the others where they call `agreed`."""
        if self.size == 1 or error.all_have_it:
            raise error
        self._largest(_FAILED)
        self._raise_together(error)

    def _raise_together(self, own: DataError | None) -> NoReturn:
        """Raise the error of the first process that failed."""
        described = None if own is None else {"message": own.message, "hint": own.hint, "details": own.details}
        rank, found = next((rank, found) for rank, found in enumerate(self.everyone(described)) if found is not None)
        error = DataError(f"process {rank + 1} of {self.size}: {found.pop('message')}", **found)
        error.all_have_it = True
        raise error from own

    def _largest(self, number: int) -> int:
        if self.size == 1:
            return number
        largest = torch.tensor([number])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def device(self, wanted: str) -> str:
        """The device of this process: its own GPU if GPUs are wanted and there are any.

        Raises:
            ConfigError: several processes cannot share the device.
        """
        if self.size > 1 and wanted in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank}"
        if self.size > 1 and wanted == "mps":
            raise ConfigError(
                "run.device: mps works in one process only", hint="leave out --nproc, or choose the device cpu"
            )
        # Gloo exchanges nothing that is on an Apple GPU.
        return "cpu" if self.size > 1 and wanted == "auto" else wanted

    def everyone(self, value: Any) -> list[Any]:
        """The values of all processes: tensors on the CPU and plain values, also nested."""
        return [value] if self.size == 1 else [_unpacked(part) for part in _gathered(_packed(value), self.size)]

    def in_order(self, own: Iterable[_Found]) -> Iterator[_Found]:
        """Yield what all processes find, in the order in which a single one would find it.

        They find one result each at a time and exchange it, so that none waits long for the others.

        Args:
            own: what this process finds: of P processes, every P-th result, from that of its rank on. The results are
                such as `everyone` takes.

        Raises:
            DataError: one of the processes could not find its next result.
        """
        if self.size == 1:
            yield from own
            return
        remaining, ended = iter(own), False
        while not ended:
            try:
                found = list(islice(remaining, 1))
            except DataError as error:
                self.fail(error)
            self.agreed(0)
            every = self.everyone(found)
            yield from chain.from_iterable(every)
            ended = not all(every)

    def require_same_samples(self, digest: str) -> None:
        """Check that all processes have the same list of samples.

        Raises:
            DataError: one has another.
        """
        every = self.everyone(digest)
        other = next((rank for rank, found in enumerate(every) if found != every[0]), None)
        if other is not None:
            error = DataError(
                f"process {other + 1} of {self.size} finds other samples than the first",
                hint="make the same data available to all of them",
            )
            error.all_have_it = True
            raise error

    def of_first(self, value: _Found) -> _Found:
        """The value of the first process, of which `everyone` takes all."""
        found: _Found = self.everyone(value)[0]
        return found

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
        return Sums.of(self.everyone(sums.plain()))

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
        # What was fitted to data may differ in the last digits between machines.
        for tensor in (*module.parameters(), *module.buffers()):
            content = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
            distributed.broadcast(content.view(torch.uint8), 0)  # Gloo does not know all types
            with torch.no_grad():
                tensor.copy_(content.view(tensor.shape))
        return data_parallel(module, skips_parameters=getattr(module, "skips_parameters", False))


def _packed(value: Any) -> torch.Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _unpacked(packed: torch.Tensor) -> Any:
    return torch.load(io.BytesIO(packed.numpy().tobytes()), weights_only=True)


def _gathered(own: torch.Tensor, size: int) -> list[torch.Tensor]:
    """The bytes `(N,)` of all processes."""
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    distributed.all_gather(lengths, torch.tensor([len(own)]))
    longest = max(int(length) for length in lengths)
    every = [own.new_zeros(longest) for _ in range(size)]
    distributed.all_gather(every, F.pad(own, (0, longest - len(own))))
    return [part[: int(length)] for part, length in zip(every, lengths, strict=True)]


ALONE = Processes()


@contextmanager
def joined(member: Member, *, timeout: float) -> Iterator[Processes]:
    """Within the context, processes can exchange what they compute.

    Args:
        member: who this one is.
        timeout: seconds to wait for the others before giving up.

    Raises:
        ProcessError: another one has ended, or does not answer in time.
    """
    if member.size == 1:
        yield ALONE
        return
    address = _address_in_slurm(os.environ) if "MASTER_ADDR" not in os.environ else {}
    for name, value in address.items():
        os.environ.setdefault(name, value)
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        raise ConfigError(
            f"{member.size} processes have to meet, but MASTER_ADDR and MASTER_PORT do not say where",
            hint="start the program by torchrun or with --nproc, or set both: a host and a free port of the first",
        )
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with reporting_lost_processes():
        limit = timedelta(seconds=timeout)
        store, rank, size = next(rendezvous("env://", member.rank, member.size, timeout=limit))
        # Where torchrun has restarted processes, they would find the addresses of those before.
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        try:
            yield Processes(member.rank, member.size, member.local_rank)
        finally:
            distributed.destroy_process_group()


@contextmanager
def reporting_lost_processes() -> Iterator[None]:
    """Turn the errors of PyTorch that mean that another process has ended, or does not answer, into ours.

    Raises:
        ProcessError: another process has ended, or does not answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, distributed.DistError) and not re.search(r"[/\\]gloo[/\\]|NCCL", text):
            raise
        slow = "imed out" in text or "timeout" in text.casefold()
        raise ProcessError(
            "another process does not answer" if slow else "another process has ended",
            hint="see its own message, or the log of its machine"
            + ("; if it is only slow, raise run.process_timeout" if slow else ""),
        ) from error


def _address_in_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the processes of a SLURM step meet: at its first host, at a port that other steps do not use."""
    try:
        hosts = environment["SLURM_STEP_NODELIST"]
        job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", "0"))
    except (KeyError, ValueError):
        return {}
    # Such as node[07-10,12] or a,b.
    found = re.match(r"([^,\[]+)(?:\[(\d+))?", hosts)
    if found is None:
        return {}
    return {"MASTER_ADDR": f"{found[1]}{found[2] or ''}", "MASTER_PORT": str(20000 + (job + step) % 20000)}
