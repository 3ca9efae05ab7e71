"""The mask of a QR code is the one that segno chooses, in every kind of code."""

from itertools import chain

import numpy as np
import pytest
import segno

from dbbd_cli.data.images.qr_mask import masked_modules
from dbbd_cli.data.urls.synthetic import synthetic_urls


def both(text, version=None):
    """The modules as masked here and by segno, and the number of segno's mask."""
    settings = {"version": version, "error": "m", "boost_error": False, "micro": False}
    expected = segno.make(text, **settings)
    found = masked_modules(segno.make(text, mask=0, **settings))
    return found, np.array([list(row) for row in expected.matrix], dtype=bool), expected.mask


def test_urls():
    masks = set()
    for url in chain(*synthetic_urls(75, seed=1).values()):
        found, expected, mask = both(url)
        np.testing.assert_array_equal(found, expected, err_msg=url)
        masks.add(mask)
    assert masks == set(range(8)), "every mask was the best at least once"


@pytest.mark.parametrize("version", [1, 2, 6, 7, 14, 40])
def test_every_size(version):
    # The share of dark modules decides on the mask of 163 in version 1, the number of the version on the last in 7.
    for text in ("163", "PATH/1", "https://3.example"[: 14 if version == 1 else None]):
        found, expected, _ = both(text, version)
        np.testing.assert_array_equal(found, expected)
