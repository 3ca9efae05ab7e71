"""Who this process is among those that train together, as the program that started it says in its environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dbbd_cli.core.errors import ConfigError, DbbdError

TORCHRUN = {"rank": "RANK", "local_rank": "LOCAL_RANK", "size": "WORLD_SIZE"}
"""Variables by which torchrun tells a process who it is; it also sets MASTER_ADDR and MASTER_PORT."""
SLURM = {"rank": "SLURM_PROCID", "local_rank": "SLURM_LOCALID", "size": "SLURM_STEP_NUM_TASKS"}
"""The same for `srun`."""
NPROC = "DBBD_NPROC"
"""Variable by which `--nproc` tells the processes that it has started how many they are."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Member:
    """A process among those that train together.

    Attributes:
        rank: its number, from 0.
        size: number of all processes.
        local_rank: its number among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    @contextmanager
    def reporting_once(self) -> Iterator[None]:
        """Have errors that all processes of a machine run into reported by the first of these."""
        try:
            yield
        except DbbdError as error:
            error.all_have_it |= self.local_rank > 0
            raise


def from_environment(environment: Mapping[str, str]) -> Member:
    """Who this process is, as torchrun or `srun` says.

    Raises:
        ConfigError: they contradict themselves.
    """
    for names in (TORCHRUN, SLURM):
        if names["size"] in environment and names["rank"] in environment:
            try:
                found = Member(**{key: int(environment.get(name, "0")) for key, name in names.items()})
            except ValueError as error:
                raise ConfigError(f"{', '.join(names.values())} must be numbers: {error}") from error
            if not 0 <= found.rank < found.size or found.local_rank < 0:
                raise ConfigError(
                    f"{names['rank']} is {found.rank}, and {names['size']} {found.size}",
                    hint="start the program by torchrun, by srun, or with --nproc",
                )
            if found.size > 1 and names["local_rank"] not in environment:
                if environment.get("MASTER_ADDR") not in _THIS_MACHINE:
                    raise ConfigError(
                        f"{names['local_rank']} is not set",
                        hint="set it to the number of the process among those of its machine, from 0",
                    )
                return replace(found, local_rank=found.rank)
            return found
    return Member()
