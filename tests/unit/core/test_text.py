"""Counts agree with their nouns."""

import pytest

from dbbd_cli.core.text import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "image", "1 image"),
        (0, "image", "0 images"),
        (1201, "image", "1,201 images"),
        (2, "batch", "2 batches"),
        (2, "epoch", "2 epochs"),
    ],
)
def test_a_number_agrees_with_its_noun(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
