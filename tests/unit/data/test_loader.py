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
