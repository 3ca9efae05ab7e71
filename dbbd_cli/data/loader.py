"""Batches in a fixed order, from any point of any epoch, with or without worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from dbbd_cli.core.errors import DbbdError
from dbbd_cli.core.limits import TOO_MANY_FILES, usable_processors
from dbbd_cli.data.handover import PREFETCH, too_many_files
from dbbd_cli.data.random_numbers import permutation
from dbbd_cli.data.workers import Workers, start_worker

Key = tuple[int, int]
"""(epoch, sample index): with the seed, all that the randomness of a sample may depend on."""


class Share(NamedTuple):
    """The part of a batch that one of several processes computes.

    Attributes:
        first: place of its first sample in the batch.
        samples: number of its samples; 0: it gets a sample of another process, which must not count.
        total: number of all samples.
    """

    first: int
    samples: int
    total: int


class BatchDataset(Protocol):
    """A dataset that makes a whole batch at once."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitems__(self, keys: list[Key]) -> Any:
        """Return the batch of the given samples."""
        ...


class _ReturnErrors:
    """Returns errors in place of a batch: raised in a worker, they would arrive as a traceback in a RuntimeError."""

    def __init__(self, dataset: BatchDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[Key]) -> Any:
        try:
            return self.dataset.__getitems__(keys)
        except DbbdError as error:
            return error
        except OSError as error:
            if error.errno in TOO_MANY_FILES:
                return too_many_files(error)
            raise


class BatchLoader:
    """Iterates over a dataset in batches.

    Args:
        dataset: makes the batches.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        shuffle: whether the order changes from epoch to epoch.
        seed: seed of the order.
        num_workers: maximum number of worker processes; 0 makes batches in this process.
        worker_timeout: seconds to wait for a batch before giving up.
        batches_in_use: maximum number of batches in use at the same time, such as all those of an optimizer step.
        pin_memory: whether to put batches into page-locked memory, for faster copies to a GPU.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        num_workers: int = 0,
        worker_timeout: float = 600,
        batches_in_use: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.batch_size = batch_size
        self.rank, self.num_processes = 0, 1
        self._plan: list[list[Key]] = []  # the batch sampler; replaced for each epoch
        # More would be idle. The batches do not depend on the number of workers.
        workers = min(num_workers, usable_processors(), len(self))
        self._workers = Workers(worker_timeout)
        self._loader: DataLoader[Any] = DataLoader(
            _ReturnErrors(dataset),  # type: ignore[arg-type]
            batch_sampler=self._plan,
            collate_fn=(self._workers.handover(workers, len(self), batches_in_use) if workers else lambda batch: batch),
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            worker_init_fn=start_worker if workers else None,
            timeout=self._workers.loader_timeout if workers else 0,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # Its own generator: the loader must not draw from the global one, which dropout uses.
            generator=torch.Generator().manual_seed(seed % 2**63),
        )

    def divide(self, rank: int, num_processes: int, batch_size: int) -> None:
        """Make only the share of one of several processes.

        The samples of a batch are those that a single process makes with this batch size.

        Args:
            rank: number of the process, from 0.
            num_processes: number of all processes.
            batch_size: samples of a batch that all of them make together.
        """
        self.rank, self.num_processes, self.batch_size = rank, num_processes, batch_size

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-self.num_samples // self.batch_size)

    def share(self, batch: int) -> Share:
        """What this process makes of a batch, if all are divided as evenly as possible."""
        total = min(self.batch_size, self.num_samples - batch * self.batch_size)
        first, end = (total * rank // self.num_processes for rank in (self.rank, self.rank + 1))
        return Share(first, end - first, total)

    @property
    def num_samples(self) -> int:
        """Samples per epoch."""
        return len(self.dataset)

    def plan(self, epoch: int) -> list[list[Key]]:
        """Return the samples that this process makes of each batch of an epoch, at least one."""
        keys = [(epoch, int(index)) for index in self._order(epoch)]
        return [keys[self._places(batch)] for batch in range(len(self))]

    def keys_of(self, epoch: int, batch: int) -> list[Key]:
        """Return the samples that this process makes of a batch of an epoch; empty if the epoch has no such batch."""
        if batch >= len(self):
            return []
        return [(epoch, int(index)) for index in self._order(epoch)[self._places(batch)]]

    def is_start_of(self, keys: list[Key], epoch: int, batch: int) -> bool:
        """Whether a batch of an epoch, as all processes make it together, begins with the given samples."""
        first = batch * self.batch_size
        return [(epoch, int(index)) for index in self._order(epoch)[first : first + len(keys)]] == keys

    def _places(self, batch: int) -> slice:
        """Where the samples that this process makes of a batch stand in the order of an epoch."""
        share = self.share(batch)
        # A process without a sample takes the first one, to exchange what it computes with the others.
        first = batch * self.batch_size + (share.first if share.samples else 0)
        return slice(first, first + max(share.samples, 1))

    def _order(self, epoch: int) -> np.ndarray:
        return permutation(self.seed, epoch, self.num_samples) if self.shuffle else np.arange(self.num_samples)

    def make(self, keys: list[Key]) -> Any:
        """Make the batch of the given samples in this process.

        Raises:
            DbbdError: the dataset cannot make it.
        """
        return self._workers.make(lambda: self.dataset.__getitems__(keys))

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch from position `start` on.

        Raises:
            DbbdError: the dataset cannot make a batch, or a worker has died or hangs.
        """
        plan = self.plan(epoch)[start:]
        self._plan[:] = plan
        for keys, batch in zip(plan, self._workers.batches(self._loader), strict=True):
            if isinstance(batch, DbbdError):
                raise batch
            # An OSError: the file of the batch was removed. Made here, the batch is the same.
            yield self.make(keys) if isinstance(batch, OSError) else batch

    def close(self) -> None:
        """End the worker processes, even if they hang."""
        self._workers.close()
