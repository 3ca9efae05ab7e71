"""Masked codes are compared with those of segno, module by module."""

import random
import string

import numpy as np
import pytest
import segno

from dbbd_cli.data.images.qr_mask import masked_modules

SETTINGS = {"error": "m", "boost_error": False, "micro": False}


def both(text):
    expected = segno.make(text, **SETTINGS)
    dark = np.array([list(row) for row in expected.matrix], dtype=bool)
    return expected, dark, masked_modules(segno.make(text, **SETTINGS, mask=0))


def test_the_pattern_is_the_one_that_segno_chooses():
    letters = random.Random(1)
    chosen = set()
    for length in [*range(1, 60), *range(60, 400, 40)]:
        url = "https://" + "".join(letters.choices(string.ascii_lowercase + string.digits + "/.-?=&", k=length))
        expected, dark, found = both(url)
        chosen.add(expected.mask)
        np.testing.assert_array_equal(found, dark, err_msg=url)
    assert chosen == set(range(8))


@pytest.mark.parametrize("text", ["0" * 500, "A" * 300, "1" * 40, "ab" * 20, "x" * 1500, "x" * 2331])
def test_texts_that_make_long_runs(text):
    _, dark, found = both(text)
    np.testing.assert_array_equal(found, dark)


@pytest.mark.parametrize("version", range(2, 41))
def test_every_version(version):
    expected = segno.make("https://a.example", **SETTINGS, version=version)
    dark = np.array([list(row) for row in expected.matrix], dtype=bool)
    code = segno.make("https://a.example", **SETTINGS, version=version, mask=0)
    np.testing.assert_array_equal(masked_modules(code), dark)
