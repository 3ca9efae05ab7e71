"""Corruptions keep size and type, depend on seed and sample alone, and grow with their strength."""

from __future__ import annotations

import numpy as np
import pytest

from dbbd_cli.data.images.corruptions import CORRUPTIONS, Corrupted, corrupt
from dbbd_cli.data.images.qr_code import render_modules

GRAY = render_modules("bluepeak.example/news", 4)
COLOR = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=2)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_the_shape_and_can_be_repeated(name: str) -> None:
    for strength in CORRUPTIONS[name].strengths:
        for pixels in (GRAY, COLOR):
            once, again = (corrupt(pixels, Corrupted(name, strength, 1, 2)) for _ in range(2))
            assert (once.shape, once.dtype) == (pixels.shape, np.uint8)
            assert np.array_equal(once, again)
            assert not np.array_equal(once, pixels)


@pytest.mark.parametrize("name", ["rotation", "perspective", "noise", "cover"])
def test_seed_and_sample_decide_what_is_random(name: str) -> None:
    strength = CORRUPTIONS[name].strengths[1]
    for changed in ([Corrupted(name, strength, seed, 0) for seed in range(6)],
                    [Corrupted(name, strength, 0, sample) for sample in range(6)]):  # fmt: skip
        assert len({corrupt(GRAY, how).tobytes() for how in changed}) > 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_stronger_corruption_changes_more(name: str) -> None:
    def change(strength: float) -> float:
        harmed = [corrupt(GRAY, Corrupted(name, strength, 0, sample)) for sample in range(8)]
        return float(np.mean([np.abs(pixels.astype(int) - GRAY).mean() for pixels in harmed]))

    weakest, *_, strongest = CORRUPTIONS[name].strengths
    assert change(weakest) < change(strongest)


def test_known_values() -> None:
    half = corrupt(GRAY, Corrupted("low contrast", 50, 0, 0))
    assert set(np.unique(half)) == {64, 192}
    noisy = corrupt(np.full((200, 200), 128, np.uint8), Corrupted("noise", 20, 0, 0))
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    assert noisy.std() == pytest.approx(20, abs=0.5)
    covered = corrupt(np.zeros((100, 50), np.uint8), Corrupted("cover", 20, 0, 0))
    assert (covered == 128).sum() == 10 * 10
