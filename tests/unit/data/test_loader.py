"""A loader gives the same batches in the same order from any point of an epoch, with and without workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dbbd_cli.data.loader import BatchLoader, Key


class Numbers:
    """A dataset of the keys themselves."""

    def __len__(self) -> int:
        return 10

    def __getitems__(self, keys: list[Key]) -> np.ndarray:
        return np.asarray(keys)


def loader(shuffle: bool = True, workers: int = 0) -> BatchLoader:
    return BatchLoader(Numbers(), batch_size=4, shuffle=shuffle, seed=5, num_workers=workers)


def indices(batches: list[np.ndarray]) -> list[int]:
    return [int(index) for batch in batches for index in batch[:, 1]]


def test_every_sample_once_and_the_last_batch_smaller() -> None:
    batches = list(loader().batches(1))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(indices(batches)) == list(range(10))
    assert len(loader()) == 3


def test_order_changes_with_the_epoch_only_when_shuffled() -> None:
    assert indices(list(loader().batches(1))) != indices(list(loader().batches(2)))
    assert indices(list(loader(shuffle=False).batches(1))) == list(range(10))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_start_at_any_batch(workers: int) -> None:
    whole = list(loader().batches(3))
    from_anywhere = loader(workers=workers)
    for start in (1, 3, 2):  # repeatedly, with the same workers
        rest = list(from_anywhere.batches(3, start=start))
        assert len(rest) == 3 - start
        for one, two in zip(whole[start:], rest, strict=True):
            assert np.array_equal(one, two)


def test_loading_does_not_use_the_global_random_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(loader().batches(1))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_processes_divide_the_batches_of_a_single_one(processes: int, batch_size: int) -> None:
    whole = BatchLoader(Numbers(), batch_size=batch_size * processes, shuffle=True, seed=5)
    parts = [BatchLoader(Numbers(), batch_size=batch_size, shuffle=True, seed=5) for _ in range(processes)]
    for rank, part in enumerate(parts):
        part.divide(rank, processes, batch_size * processes)
        assert len(part) == len(whole)
    for number, batch in enumerate(whole.plan(2)):
        shares = [part.share(number) for part in parts]
        assert [share.total for share in shares] == [len(batch)] * processes
        assert max(share.samples for share in shares) - min(share.samples for share in shares) <= 1
        own = [part.plan(2)[number] for part in parts]
        counted = [keys[: share.samples] for keys, share in zip(own, shares, strict=True)]
        assert [key for keys in counted for key in keys] == batch
        assert all(len(keys) == max(share.samples, 1) for keys, share in zip(own, shares, strict=True))
        assert all(part.keys_of(2, number) == keys for part, keys in zip(parts, own, strict=True))
