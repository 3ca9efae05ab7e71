"""The masking of a QR code: the choice among eight patterns that takes a library in Python most of its time.

The result is exactly that of segno, which follows ISO/IEC 18004:2015, 7.8. Legend: n modules in a row of the code;
True and 1 are dark.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import segno
from segno import consts


class _Frame(NamedTuple):
    """What all codes of a version have in common.

    Attributes:
        masks: `(8, n, n)` bool, what each pattern inverts: nothing outside the data.
        data: `(n, n)` bool, where the data are.
        judged: `(n, n)` bool, the other modules as they are when patterns are judged: number of pattern and version
            are not yet there.
        final: `(8, n, n)` bool, the other modules at the end, with each pattern.
    """

    masks: np.ndarray
    data: np.ndarray
    judged: np.ndarray
    final: np.ndarray


def masked_modules(code: segno.QRCode) -> np.ndarray:
    """The modules `(n, n)` of a code, masked with the pattern that reads best.

    Args:
        code: one of error correction M that was made with mask 0, whatever fits it best.
    """
    assert isinstance(code.version, int)
    frame = _frame(code.version)
    candidates = frame.masks ^ (_modules(code) ^ frame.masks[0])
    scores = _penalties(np.where(frame.data, candidates, frame.judged))
    best = int(scores.argmin())
    return np.where(frame.data, candidates[best], frame.final[best])


def _modules(code: segno.QRCode) -> np.ndarray:
    size = len(code.matrix)
    return np.frombuffer(b"".join(code.matrix), dtype=bool).reshape(size, size)


@cache
def _frame(version: int) -> _Frame:
    codes = [segno.make("0", version=version, error="m", boost_error=False, mask=mask) for mask in range(8)]
    kinds = np.array([list(row) for row in codes[0].matrix_iter(border=0, verbose=True)])
    patterns = (consts.TYPE_FINDER_PATTERN_DARK, consts.TYPE_TIMING_DARK, consts.TYPE_ALIGNMENT_PATTERN_DARK)
    data = ~np.isin(kinds, (consts.TYPE_ALIGNMENT_PATTERN_DARK, consts.TYPE_ALIGNMENT_PATTERN_LIGHT))
    for rows, columns in (
        (slice(9), slice(9)), (slice(9), slice(-8, None)), (slice(-8, None), slice(9)),  # finder patterns and format
        (6, slice(None)), (slice(None), 6),  # timing
    ):  # fmt: skip
        data[rows, columns] = False
    if version >= 7:
        data[:6, -11:-8] = data[-11:-8, :6] = False  # version
    i, j = np.indices(data.shape)
    masks = np.stack(
        [
            (i + j) % 2 == 0,
            i % 2 == 0,
            j % 3 == 0,
            (i + j) % 3 == 0,
            (i // 2 + j // 3) % 2 == 0,
            i * j % 2 + i * j % 3 == 0,
            (i * j % 2 + i * j % 3) % 2 == 0,
            ((i + j) % 2 + i * j % 3) % 2 == 0,
        ]
    )
    return _Frame(masks & data, data, np.isin(kinds, patterns), np.stack([_modules(code) for code in codes]))


def _penalties(codes: np.ndarray) -> np.ndarray:
    """The score of each of `(8, n, n)` codes, lower is better: ISO/IEC 18004:2015, 7.8.3.1."""
    size = codes.shape[1]
    across = codes[:, :, 1:] == codes[:, :, :-1]
    blocks = across[:, 1:] & across[:, :-1] & (codes[:, 1:, 1:] == codes[:, :-1, 1:])
    scores = 3 * blocks.sum(axis=(1, 2)) + _of_rows(codes) + _of_rows(codes.transpose(0, 2, 1))
    dark = codes.sum(axis=(1, 2))
    return scores + [10 * int(abs(float(count) / size**2 * 100 - 50) / 5) for count in dark.tolist()]


def _of_rows(codes: np.ndarray) -> np.ndarray:
    """What long runs of one color, and stretches that look like a finder pattern, cost in the rows."""
    same = codes[:, :, 1:] == codes[:, :, :-1]
    five = same[:, :, :-3] & same[:, :, 1:-2] & same[:, :, 2:-1] & same[:, :, 3:]
    goes_on = five[:, :, 1:] & five[:, :, :-1]
    # A run of L modules costs L - 2; it has L - 4 places where five are equal.
    runs = 3 * five.sum(axis=(1, 2)) - 2 * goes_on.sum(axis=(1, 2))

    margin = np.zeros((*codes.shape[:2], 4), dtype=bool)
    padded = np.concatenate([margin, codes, margin], axis=2)
    places = codes.shape[2] - 6

    def at(offset: int) -> np.ndarray:
        """The module that lies so far behind each place where a finder pattern could begin."""
        return padded[:, :, 4 + offset : 4 + offset + places]

    found = at(0) & ~at(1) & at(2) & at(3) & at(4) & ~at(5) & at(6)
    before = at(-4) | at(-3) | at(-2) | at(-1)
    after = at(7) | at(8) | at(9) | at(10)
    found &= ~(before & after)
    # One that counts hides those which begin within it: 4 or 6 modules on, as the pattern is.
    if (found[:, :, 4:] & found[:, :, :-4]).any() or (found[:, :, 6:] & found[:, :, :-6]).any():
        for place in range(4, places):
            found[:, :, place] &= ~found[:, :, place - 4]
            if place >= 6:
                found[:, :, place] &= ~found[:, :, place - 6]
    return runs + 40 * found.sum(axis=(1, 2))
