"""Words that are shown."""

import pytest

from dbbd_cli.core.text import counted


@pytest.mark.parametrize(
    ("count", "sample_unit", "text"),
    [
        (1, "image", "1 image"),
        (0, "image", "0 images"),
        (1201, "image", "1,201 images"),
        (2, "batch", "2 batches"),
        (2, "epoch", "2 epochs"),
    ],
)
def test_a_number_agrees_with_its_noun(count: int, sample_unit: str, text: str) -> None:
    assert counted(count, sample_unit) == text
