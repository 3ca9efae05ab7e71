"""The processes that train together: how they meet, and what all of them agree on.

Each runs the whole program, started by PyTorch's launcher or by SLURM; `core.processes` says who it is.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dbbd_cli.core.compat import data_parallel
from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError, ProcessError
from dbbd_cli.core.processes import SLURM, Member
from dbbd_cli.core.signals import default_signals, ignore_signals
from dbbd_cli.data.loader import Share
from dbbd_cli.engine.sharding import is_sharded, shard
from dbbd_cli.engine.state import Sums
from dbbd_cli.model.processes import Shared, share_layers, shared_batch

_Found = TypeVar("_Found")

_FAILED = 1000
"""Stands for a failure where processes exchange the number of a signal; larger than any signal."""
_SECONDS_FOR_FIRST = 3.0
"""How long the others wait for the first process to report that one has ended."""


@dataclass(frozen=True)
class Processes(Member):
    """The processes that train together, and who this one is among them. All call its methods at the same time.

    Attributes:
        group: the connection between them; None: that which `joined` has made.
        store: what they have in common; with torchrun, it lasts until all attempts have ended.
    """

    group: Any = None
    store: Any = None

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
        raise DataError(
            f"process {rank + 1} of {self.size}: {found.pop('message')}", **found, all_have_it=True
        ) from own

    def _largest(self, number: int) -> int:
        if self.size == 1:
            return number
        largest = torch.tensor([number])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, self.group)
        return int(largest)

    def device(self, wanted: str) -> str:
        """The device of this process: its own GPU if GPUs are wanted and there are any.

        Raises:
            ConfigError: there are fewer GPUs than processes on this machine, or all are to use the same one.
        """
        if self.size > 1 and wanted == "mps":
            raise ConfigError(
                "run.device: mps works in one process only", hint="leave out --nproc, or choose the device cpu"
            )
        if self.size == 1 or wanted == "cpu" or not torch.cuda.is_available():
            # Gloo exchanges nothing that is on an Apple GPU.
            return "cpu" if self.size > 1 and wanted == "auto" else wanted
        if wanted not in ("auto", "cuda"):
            raise ConfigError(
                f"run.device: {self.size} processes cannot all use {wanted}",
                hint="use auto or cuda, and choose among the GPUs with CUDA_VISIBLE_DEVICES",
            )
        number, count = self.local_rank, torch.cuda.device_count()
        if count == 1 and SLURM["size"] in os.environ:
            number = 0  # with --gpus-per-task=1, each sees its own GPU only
        if number >= count:
            raise ConfigError(
                f"process {self.rank + 1} of {self.size} is number {number + 1} on its machine, which has {count} GPUs",
                hint="start fewer processes, or use --device cpu",
            )
        torch.cuda.set_device(number)
        return f"cuda:{number}"

    def everyone(self, value: Any) -> list[Any]:
        """The values of all processes: tensors on the CPU and plain values, also nested."""
        return [value] if self.size == 1 else [_unpacked(part) for part in self._gathered(_packed(value))]

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
        if other := self._other_than_first(digest):
            raise DataError(
                f"{other} finds other samples than the first",
                hint="make the same data available to all of them",
                all_have_it=True,
            )

    def require_same_checkpoint(self, digest: str | None) -> None:
        """Check that all processes have read the same checkpoint.

        Raises:
            CheckpointError: one has read another.
        """
        if other := self._other_than_first(digest):
            raise CheckpointError(
                f"{other} has read another checkpoint than the first",
                hint="make the same run folder available to all of them; if the run is training, try again",
                all_have_it=True,
            )

    def _other_than_first(self, value: str | None) -> str:
        """The first process whose value differs from that of the first one, in words; empty if there is none."""
        every = self.everyone(value)
        return next((f"process {rank + 1} of {self.size}" for rank, own in enumerate(every) if own != every[0]), "")

    def of_first(self, value: _Found) -> _Found:
        """The value of the first process, of which `everyone` takes all."""
        found: _Found = self.everyone(value)[0]
        return found

    def share_folder(self, folder: Path, command: Sequence[str]) -> Path:
        """The run folder of the first process, which `begun_folder` finds if torchrun restarts the command."""
        if self.store is not None and self.is_first:
            self.store.set(_folder_key(command), str(folder))
        return Path(self.of_first(str(folder)))

    def begun_folder(self, command: Sequence[str]) -> Path | None:
        """The run folder that an earlier attempt of the command has shared; None if this is the first attempt."""
        found, key = "", _folder_key(command)
        if self.store is not None and self.is_first and self.store.check([key]):
            found = self.store.get(key).decode()
        found = self.of_first(found)
        return Path(found) if found else None

    def all_of(self, finite: torch.Tensor) -> torch.Tensor:
        """Whether `finite` `()` is true in all processes, on its device."""
        if self.size == 1:
            return finite
        every = finite.to(torch.int32)
        distributed.all_reduce(every, distributed.ReduceOp.MIN, self.group)
        return every.bool()

    def added_up(self, sums: Sums) -> Sums:
        """The sums of all processes, in the order of their ranks, so that all get the same."""
        if self.size == 1:
            return sums
        return Sums.of(self.everyone(sums.plain()))

    def _gathered(self, own: torch.Tensor) -> list[torch.Tensor]:
        """The bytes `(N,)` of all processes."""
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(own)]), self.group)
        longest = max(int(length) for length in lengths)
        every = [own.new_zeros(longest) for _ in range(self.size)]
        distributed.all_gather(every, F.pad(own, (0, longest - len(own))), self.group)
        return [part[: int(length)] for part, length in zip(every, lengths, strict=True)]

    def with_own_connection(self, timeout: float) -> Processes:
        """The same processes, for a thread that exchanges values while the program does too."""
        if self.size == 1:
            return self
        return replace(self, group=distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout)))

    @contextmanager
    def sharing(self, share: Share, network: nn.Module, *, is_last: bool = True) -> Iterator[None]:
        """Within the context, the network computes a share of a batch; gradients are exchanged after the last one."""
        if self.size == 1:
            yield
            return
        exchanging: AbstractContextManager[None] = nullcontext()
        if is_sharded(network):
            network.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        elif not is_last:
            assert isinstance(network, DistributedDataParallel)
            exchanging = network.no_sync()
        with shared_batch(Shared(share.samples, share.total)), exchanging:
            yield

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over processes; itself if there is only one."""
        if self.size == 1:
            return module
        self._share(module)
        return data_parallel(module, skips_parameters=getattr(module, "skips_parameters", False))

    def sharded(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module divided among processes, on the device."""
        self._share(module)
        return shard(module, device, self.size)

    def _share(self, module: nn.Module) -> None:
        """Make the module compute shares of batches, with the same tensors in all processes."""
        share_layers(module)
        # What was fitted to data may differ in the last digits between machines.
        for tensor in (*module.parameters(), *module.buffers()):
            content = tensor.detach().clone(memory_format=torch.contiguous_format).view(-1)
            distributed.broadcast(content.view(torch.uint8), 0)  # Gloo does not know all types
            with torch.no_grad():
                tensor.copy_(content.view(tensor.shape))


def _packed(value: Any) -> torch.Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _unpacked(packed: torch.Tensor) -> Any:
    return torch.load(io.BytesIO(packed.numpy().tobytes()), weights_only=True)


ALONE = Processes()


def _folder_key(command: Sequence[str]) -> str:
    return "folder " + json.dumps(list(command))


@contextmanager
def joined(member: Member, *, timeout: float) -> Iterator[Processes]:
    """Within the context, processes can exchange what they compute.

    Args:
        member: who this one is.
        timeout: seconds to wait for the others before giving up.

    Raises:
        ConfigError: where they should meet is not said, or cannot be used.
        ProcessError: another one has ended, or does not answer in time.
    """
    if member.size == 1:
        yield ALONE
        return
    with member.reporting_once():
        _set_address()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    limit = timedelta(seconds=timeout)
    with _reported_by_one(None, member), reporting_lost_processes(), default_signals():
        with _reporting_address():
            store, rank, size = next(rendezvous("env://", member.rank, member.size, timeout=limit))
        attempt = _attempt(store, member, timeout)
        own = PrefixStore(attempt, store)
        distributed.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=limit)
    with _reported_by_one(own, member), reporting_lost_processes():
        try:
            yield Processes(member.rank, member.size, member.local_rank, store=PrefixStore("dbbd", store))
        finally:
            distributed.destroy_process_group()


def _attempt(store: Any, member: Member, timeout: float) -> str:
    """A name for this meeting of the processes, chosen by the first and known to all.

    torchrun restarts processes with the store of those before, in which they must not find each other's values. Which
    attempt it is, torchrun does not say: each machine counts its own. So each process asks with a number of its own,
    and the first one answers; those before it have ended and do not take the answers that are meant for them.

    Raises:
        ProcessError: a process does not come in time.
    """
    own = uuid.uuid4().hex
    if member.rank:
        store.set(f"dbbd/ask/{member.rank}", own)
        attempt: str = store.get(f"dbbd/answer/{own}").decode()
        store.set(f"{attempt}/here/{member.rank}", "")
        return attempt
    missing, deadline = set(range(1, member.size)), time.monotonic() + timeout
    while missing:
        for rank in missing:
            if store.check([f"dbbd/ask/{rank}"]):
                store.set(f"dbbd/answer/{store.get(f'dbbd/ask/{rank}').decode()}", own)
        missing = {rank for rank in missing if not store.check([f"{own}/here/{rank}"])}
        if time.monotonic() > deadline:
            raise _no_answer()
        time.sleep(0.01)
    return own


@contextmanager
def _reported_by_one(store: Any, member: Member) -> Iterator[None]:
    """Have the first process report that another one has ended, or the first that can if that one has ended itself."""
    try:
        yield
    except ProcessError as error:
        if not member.is_first:
            left: list[bool] = []
            if store is not None:
                # If the machine of the store is lost, asking it may take forever.
                asking = threading.Thread(target=_report_is_left, args=(store, member, left), daemon=True)
                asking.start()
                asking.join(_SECONDS_FOR_FIRST + 2)
            error.all_have_it = not (left[0] if left else member.rank == 1 or member.local_rank == 0)
        raise
    finally:
        if member.is_first and store is not None:
            with suppress(distributed.DistError):
                store.set("reported", "")


def _report_is_left(store: Any, member: Member, left: list[bool]) -> None:
    """Append whether this process is the one to report that another has ended; nothing if the store is lost."""
    try:
        deadline = time.monotonic() + _SECONDS_FOR_FIRST
        while time.monotonic() < deadline:
            if store.check(["reported"]):
                left.append(False)
                return
            time.sleep(0.05)
        left.append(store.add("reporters", 1) == 1)
    except distributed.DistError:
        return  # the first process had the store


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
        ignore_signals()  # whatever has started the processes is about to end the others
        if "imed out" in text or "timeout" in text.casefold():
            raise _no_answer() from error
        raise ProcessError(
            "another process has ended", hint="see its own message, or the log of its machine"
        ) from error


def _no_answer() -> ProcessError:
    return ProcessError(
        "another process does not answer",
        hint="see its own message, or the log of its machine; if it is only slow, raise run.process_timeout",
    )


def _set_address() -> None:
    """Set the variables that say where the processes meet, if SLURM does.

    Raises:
        ConfigError: nobody does, or the port is none.
    """
    if "MASTER_ADDR" not in os.environ:
        for name, value in _address_in_slurm(os.environ).items():
            os.environ.setdefault(name, value)
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        raise ConfigError(
            "several processes have to meet, but MASTER_ADDR and MASTER_PORT do not say where",
            hint="start the program by torchrun or with --nproc, or set both: a host and a free port of the first",
        )
    port = os.environ["MASTER_PORT"]
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ConfigError(f"MASTER_PORT is {port!r}", hint="set it to a free port, from 1 to 65535")


@contextmanager
def _reporting_address() -> Iterator[None]:
    """Turn the error for a port that is in use into ours.

    Raises:
        ConfigError: another program has it.
    """
    try:
        yield
    except distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ConfigError(
            f"port {os.environ['MASTER_PORT']} of this machine is in use",
            hint="choose another one with MASTER_PORT, or with --master-port of torchrun",
        ) from error


def _address_in_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the processes of a SLURM step meet: at its first host, at a port that other steps do not use."""
    try:
        hosts = environment["SLURM_STEP_NODELIST"]
        job, step = int(environment["SLURM_JOB_ID"]), int(environment.get("SLURM_STEP_ID", "0"))
    except (KeyError, ValueError):
        return {}
    # Such as node[07-10,12], a,b or rack[1-2]-node[3-4]; the first comma outside of brackets ends the first part.
    found = re.match(r"(?:[^,\[]|\[[^]]*])+", hosts)
    if found is None:
        return {}
    host = re.sub(r"\[(\w+)[^]]*]", r"\1", found[0])
    # Below the ports that systems give to outgoing connections.
    return {"MASTER_ADDR": host, "MASTER_PORT": str(20_000 + (job + step) % 12_000)}
