"""A dataset returns the requested rows, also in a spawned worker."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from dbbd_cli.core.progress import Silent
from dbbd_cli.data.images.cache import prepare_images
from dbbd_cli.data.images.dataset import ImageDataset
from dbbd_cli.data.images.refs import ImageRef
from dbbd_cli.data.urls.cleaning import url_sha256


def test_a_batch_has_the_requested_rows_also_after_pickling(tmp_path: Path) -> None:
    urls = [f"site.example/{number}" for number in range(10)]
    prepared = prepare_images([ImageRef(url_sha256(url), url=url) for url in urls], 32, tmp_path, Silent())
    dataset = ImageDataset(prepared, rows=[2, 5, 7], labels=[0, 1, 1])
    batch = dataset.__getitems__([(4, 1), (4, 0)])
    assert torch.equal(batch.pixels, torch.from_numpy(prepared.open()[[5, 2]].copy()))
    assert batch.labels.tolist() == [1, 0]
    assert batch.samples.tolist() == [1, 0]
    assert int(batch.epoch) == 4
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 5000  # without the pixels
    assert np.array_equal(copy.__getitems__([(4, 1)]).pixels, batch.pixels[:1])
