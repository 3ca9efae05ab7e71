"""What a network sees of URLs besides their bytes: hashed n-grams and words, and lexical properties.

All of it is computed from the encoded bytes (`data/urls/encoding.py`) on the device, for a batch at once.

B = URLs, L = bytes of the longest one, T = tokens, F = lexical features.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.nn import functional as F

BEFORE_HOST, AFTER_HOST, END = 1, 2, 3
"""Marks between the parts of an encoded URL; 0 is padding."""
NGRAMS = (2, 3, 4, 5)
_MULTIPLIER = 6364136223846793005  # of a well-known linear congruential generator (Knuth, MMIX)
_INVERSE = pow(_MULTIPLIER, -1, 2**64)
_MIX = -7046029254386353131  # 2^64 divided by the golden ratio, as a signed number: multiplicative hashing (Knuth)


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def parts(codes: torch.Tensor) -> torch.Tensor:
    """The part that each byte belongs to, a mark to the part that it ends: 0 scheme, 1 host, 2 rest; `(B, L)`."""
    is_mark = (codes >= BEFORE_HOST) & (codes <= END)
    return is_mark.cumsum(1) - is_mark.long()


def tokens(codes: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Hash the n-grams of the host and of the rest, and the words of the whole URL.

    An n-gram lies within a part, and may include the marks at its ends. A word is a run of letters, whatever their
    case, or the length of a run of digits.

    Args:
        codes: encoded URLs `(B, L)`, int64.
        bits: number of bits of a hash.

    Returns:
        Hashes `(B, T)`, int64, and whether each is a token, `(B, T)`.
    """
    part = parts(codes)
    is_mark = (codes >= BEFORE_HOST) & (codes <= END)
    inner_marks = is_mark.long().cumsum(1)
    hashes, valid = [], []
    rolling = torch.zeros_like(codes)
    for n in range(1, max(NGRAMS) + 1):
        if codes.shape[1] < n:
            break
        last = codes[:, n - 1 :]
        rolling = rolling[:, : last.shape[1]] * _MULTIPLIER + last + 1
        if n in NGRAMS:
            # Marks strictly inside: those up to the byte before the last, without those up to the first.
            inside = inner_marks[:, n - 2 : codes.shape[1] - 1] - inner_marks[:, : last.shape[1]]
            hashes.append(_hash(rolling + (part[:, n - 1 :] << 40), bits))
            valid.append((last > 0) & (inside <= 0))
    for hashed, is_token in _words(codes):
        hashes.append(_hash(hashed, bits))
        valid.append(is_token)
    return torch.cat(hashes, 1), torch.cat(valid, 1)


def _words(codes: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    lower = _lower(codes)
    is_letter, is_digit = (lower >= 97) & (lower <= 122), (codes >= 48) & (codes <= 57)
    numbers = run_lengths(is_digit) + 1_000_003
    return [(_run_hashes(lower, is_letter), _ends(is_letter)), (numbers, _ends(is_digit))]


def _lower(codes: torch.Tensor) -> torch.Tensor:
    return torch.where((codes >= 65) & (codes <= 90), codes + 32, codes)


@lru_cache(maxsize=8)
def _powers(length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The powers of the multiplier and of its inverse modulo 2^64, each `(length,)`."""
    powers, inverses = [1], [1]
    for _ in range(length - 1):
        powers.append(powers[-1] * _MULTIPLIER % 2**64)
        inverses.append(inverses[-1] * _INVERSE % 2**64)
    return (
        torch.tensor([_signed(value) for value in powers], device=device),
        torch.tensor([_signed(value) for value in inverses], device=device),
    )


def _run_hashes(codes: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    """A hash of the members in a row that end at each place, the same wherever the row stands. `(B, L)`, int64."""
    # The polynomial hash of a run is the difference of two prefix sums, shifted back to its start; modulo 2^64.
    length = codes.shape[1]
    power, inverse = (full[:length] for full in _powers(-(-length // 512) * 512, codes.device))
    sums = F.pad((codes * member * power).cumsum(1), (1, 0))
    place = torch.arange(length, device=codes.device).expand_as(codes)
    start = (place + 1 - run_lengths(member)).clamp(max=length - 1)
    return (sums[:, 1:] - sums.gather(1, start)) * inverse[start]


def _hash(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Fold 64 bits into a few; the highest bits of the product depend on all bits of the value."""
    mixed = (values ^ (values >> 29)) * _MIX
    return (mixed >> (64 - bits)) & ((1 << bits) - 1)


def run_lengths(member: torch.Tensor) -> torch.Tensor:
    """The number of members in a row that end at each place; 0 at others. `(B, L)` to `(B, L)`."""
    place = torch.arange(1, member.shape[1] + 1, device=member.device).expand_as(member)
    last_other = torch.where(member, 0, place).cummax(1).values
    return torch.where(member, place - last_other, 0)


def _ends(member: torch.Tensor) -> torch.Tensor:
    """Whether a run of members ends at each place."""
    return member & ~F.pad(member[:, 1:], (0, 1))


NUM_CATEGORIES = 6


def categories(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Hash the last, the last but one and the first label of the host, the first and the last segment of the path, and
    the file suffix; 0 stands for one that is absent.

    Args:
        codes: encoded URLs `(B, L)`, int64.
        bits: number of bits of a hash.

    Returns:
        `(B, NUM_CATEGORIES)`, int64.
    """
    lower, part = _lower(codes), parts(codes)
    text = codes > END
    in_query = ((codes == ord("?")) & (part == 2)).cumsum(1) > 0
    host, path = text & (part == 1), text & (part == 2) & ~in_query
    found = []
    labels, segments = host & (codes != ord(".")), path & (codes != ord("/"))
    for group, wanted in ((labels, (1, 2, 0)), (segments, (0, 1))):
        hashes, ends = _run_hashes(lower, group), _ends(group)
        found += [_last(hashes, ends, number) if number else _first(hashes, ends) for number in wanted]
    suffixes = _run_hashes(lower, path & (codes != ord(".")) & (codes != ord("/")))
    place, length = _suffixes(codes, path)
    found.append(torch.where(length > 0, suffixes.gather(1, place[:, None])[:, 0], 0))
    hashes = torch.stack(found, 1)
    return torch.where(hashes == 0, 0, _hash(hashes, bits))


_COUNTED = (".", "-", "_", "%", "=", "&", "/", "@", ":", "~", "+", ",")


def lexical_features(codes: torch.Tensor) -> torch.Tensor:
    """Lengths, counts, runs and entropies of the host, the path and the query, `(B, F)`, float32.

    Args:
        codes: encoded URLs `(B, L)`, int64.
    """
    part = parts(codes)
    text = codes > END
    rest = text & (part == 2)
    in_query = ((codes == ord("?")) & (part == 2)).cumsum(1) > 0
    host, path = text & (part == 1), rest & ~in_query
    is_digit = (codes >= 48) & (codes <= 57)
    has_scheme = (text & (part == 0)).any(1)
    digits_only = ~(host & ~is_digit & (codes != ord("."))).any(1)
    others = [_suffixes(codes, path)[1], digits_only, _start(host, codes, "xn--")]
    return torch.cat(
        [
            has_scheme[:, None],
            _area_features(codes, torch.stack([host, path, rest & in_query]), is_digit),
            _piece_features(codes, torch.stack([host, path]), is_digit),
            torch.stack(others, 1),
        ],
        1,
    ).float()


def _area_features(codes: torch.Tensor, areas: torch.Tensor, is_digit: torch.Tensor) -> torch.Tensor:
    """Counts, runs and entropies of each area `(A, B, L)` of URLs `(B, L)`; `(B, A * features)`."""
    counts = torch.zeros(*areas.shape[:2], 256, device=codes.device)
    counts.scatter_add_(2, codes.expand_as(areas), areas.float())
    length = counts.sum(2)
    upper = counts[:, :, 65:91].sum(2)
    letters = upper + counts[:, :, 97:123].sum(2)
    vowels, counted = (counts[:, :, _codes_of(chars, codes.device)] for chars in ("aeiouAEIOU", "".join(_COUNTED)))
    lower = _lower(codes)
    is_letter = (lower >= 97) & (lower <= 122)
    is_vowel = torch.isin(lower, _codes_of("aeiou", codes.device))
    groups = areas & torch.stack([is_digit, is_letter, is_letter & ~is_vowel])[:, None]
    longest = run_lengths(groups.flatten(0, 2)).amax(1).unflatten(0, groups.shape[:3])
    num_runs = _ends(groups[:2].flatten(0, 2)).sum(1).unflatten(0, groups[:2].shape[:3])
    share = counts / length[:, :, None].clamp(min=1)
    entropy = -(share * share.clamp(min=1e-9).log2()).sum(2)
    found = [length, counts[:, :, 48:58].sum(2), letters, upper, vowels.sum(2), *counted.unbind(2)]
    found += [*longest, *num_runs, letters / num_runs[1].clamp(min=1), entropy]
    return torch.stack([feature.float() for feature in found], 2).transpose(0, 1).flatten(1)


def _piece_features(codes: torch.Tensor, areas: torch.Tensor, is_digit: torch.Tensor) -> torch.Tensor:
    """Number and lengths of the labels of the host and the segments of the path, `(2, B, L)`; `(B, 2 * features)`."""
    separators = torch.tensor([[[ord(".")]], [[ord("/")]]], device=codes.device)
    group, area = (areas & (codes != separators)).flatten(0, 1), areas.flatten(0, 1)
    lengths, ends = run_lengths(group), _ends(group)
    digits = run_lengths(group & is_digit.repeat(len(areas), 1))
    found = [ends.sum(1), lengths.amax(1), _last(lengths, ends, 1), _last(lengths, ends, 2)]
    found += [_last(digits, ends, 1), _first(lengths, ends), _last(area.long(), area, 1)]
    return torch.stack(found, 1).unflatten(0, areas.shape[:2]).transpose(0, 1).flatten(1)


@lru_cache(maxsize=8)
def _codes_of(chars: str, device: torch.device) -> torch.Tensor:
    return torch.tensor([ord(char) for char in chars], device=device)


def _last(values: torch.Tensor, at: torch.Tensor, number: int) -> torch.Tensor:
    """The value at the last (1), last but one (2), … place of a mask; 0 if there is none. `(B,)`."""
    behind = at.long().flip(1).cumsum(1).flip(1)
    return (values * (at & (behind == number))).sum(1)


def _first(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return (values * (at & (at.long().cumsum(1) == 1))).sum(1)


def _suffixes(codes: torch.Tensor, path: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The place of the end of the path, and the length of the file suffix there without its dot, 0 if there is none."""
    length = run_lengths(path & (codes != ord(".")) & (codes != ord("/")))
    is_end = _ends(path)
    last = _last(length, is_end, 1)
    place = _last(torch.arange(codes.shape[1], device=codes.device).expand_as(codes), is_end, 1)
    before = (place - last).clamp(min=0)
    has_dot = (codes.gather(1, before[:, None])[:, 0] == ord(".")) & path.any(1)
    return place, torch.where(has_dot, last, 0)


def _start(mask: torch.Tensor, codes: torch.Tensor, prefix: str) -> torch.Tensor:
    """Whether a label of the host starts with a prefix of four characters."""
    found = torch.ones_like(codes[:, 3:], dtype=torch.bool)
    for offset, char in enumerate(prefix):
        found &= codes[:, offset : offset + found.shape[1]] == ord(char)
    return (found & mask[:, : found.shape[1]]).any(1)
