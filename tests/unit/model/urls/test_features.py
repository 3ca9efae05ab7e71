"""Hashes and lexical properties agree with a plain implementation, and depend neither on padding nor on the batch."""

from __future__ import annotations

import math
import re
import string
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dbbd_cli.data.urls.encoding import encode_url, encode_urls
from dbbd_cli.model.urls.features import (
    NGRAMS,
    NUM_CATEGORIES,
    categories,
    lexical_features,
    parts,
    run_lengths,
    tokens,
)

BITS = 17
URLS = (
    "a.example",
    "https://www.Shop.example:8080/Aa1/b-c/index.PHP?q=1&r=%20#top",
    "192.0.2.7/~x/",
    "user@a.b.c.example//double//slash",
    "xn--bcher-kva.example/ß/ä?ü",
    "a.example?only=query",
    "/path/alone",
    "",
    "x" * 600,
    "a.example/" + "ab1" * 30 + ".tar.gz",
)
url_text = st.text(alphabet="abzAZ019./?#@:-_%=&~é", max_size=40) | st.text(max_size=30)
M64 = 2**64


def codes_of(*urls: str) -> torch.Tensor:
    return torch.from_numpy(encode_urls(urls).copy()).long()


def hashed(value: int) -> int:
    """The highest bits of a product modulo 2^64, after the upper half was folded into the lower one."""
    signed = (value + M64 // 2) % M64 - M64 // 2
    return ((signed ^ (signed >> 29)) * 11400714819323198485 % M64) >> (64 - BITS)


def polynomial(values: list[int]) -> int:
    result = 0
    for value in values:
        result = (result * 6364136223846793005 + value) % M64
    return result


def expected_tokens(url: str) -> Counter[int]:
    encoded = encode_url(url)
    found: Counter[int] = Counter()
    part = 0
    part_of = []
    for byte in encoded:
        part_of.append(part)
        part += byte <= 3
    for n in NGRAMS:
        for end in range(n, len(encoded) + 1):
            gram = encoded[end - n : end]
            if all(byte > 3 for byte in gram[1:-1]):
                value = polynomial([byte + 1 for byte in gram])
                found[hashed(value + (part_of[end - 1] << 40))] += 1
    text = encoded.lower().decode("latin-1")
    for word in re.findall("[a-z]+", text):
        value = 0
        for place, char in enumerate(word):
            value += ord(char) * pow(6364136223846793005, place, M64)
        found[hashed(value % M64)] += 1
    for digits in re.findall("[0-9]+", text):
        found[hashed(len(digits) + 1_000_003)] += 1
    return found


def found_tokens(codes: torch.Tensor) -> list[Counter[int]]:
    hashes, valid = tokens(codes, BITS)
    return [Counter(row[is_token].tolist()) for row, is_token in zip(hashes, valid, strict=True)]


@pytest.mark.parametrize("url", URLS)
def test_tokens_agree_with_a_plain_implementation(url: str) -> None:
    assert found_tokens(codes_of(url)) == [expected_tokens(url)]


@given(st.lists(url_text, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_tokens_of_any_text_agree_with_a_plain_implementation(urls: list[str]) -> None:
    assert found_tokens(codes_of(*urls)) == [expected_tokens(url) for url in urls]


def test_the_hashes_of_ngrams_are_spread_evenly() -> None:
    chars = string.ascii_lowercase + string.digits
    grams = [f"{a}{b}" for a in chars for b in chars]
    hashes = {hashed(polynomial([byte + 1 for byte in gram.encode()]) + (2 << 40)) for gram in grams}
    assert len(hashes) > 0.98 * len(grams)


def test_parts_are_scheme_host_and_rest() -> None:
    codes = codes_of("ftp://h.example/p")
    assert parts(codes)[0].tolist() == [0] * 7 + [1] * 10 + [2] * 3


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@settings(deadline=None)
def test_run_lengths_count_members_in_a_row(members: list[bool]) -> None:
    count, expected = 0, []
    for member in members:
        count = count + 1 if member else 0
        expected.append(count)
    assert run_lengths(torch.tensor([members]))[0].tolist() == expected


def longest(pattern: str, text: str) -> int:
    return max(map(len, re.findall(pattern, text)), default=0)


def entropy(text: str) -> float:
    counts = Counter(text)
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts.values())


def expected_features(url: str) -> list[float]:
    text = encode_url(url).decode("latin-1")
    scheme, _, rest = text.rstrip("\3").partition("\1")
    host, _, rest = rest.partition("\2")
    path, mark, query = rest.partition("?")
    query = mark + query
    features: list[float] = [float(bool(scheme))]
    for part in (host, path, query):
        features += [len(part), len(re.findall("[0-9]", part)), len(re.findall("[A-Za-z]", part))]
        features += [len(re.findall("[A-Z]", part)), len(re.findall("[aeiouAEIOU]", part))]
        features += [part.count(char) for char in ".-_%=&/@:~+,"]
        features += [longest("[0-9]+", part), longest("[A-Za-z]+", part), longest("(?i)[b-df-hj-np-tv-z]+", part)]
        runs = re.findall("[A-Za-z]+", part)
        features += [len(re.findall("[0-9]+", part)), len(runs)]
        features += [sum(map(len, runs)) / max(len(runs), 1), entropy(part) if part else 0.0]
    for separator, part in ((".", host), ("/", path)):
        pieces = [piece for piece in part.split(separator) if piece]
        lengths = [len(piece) for piece in pieces]
        features += [len(pieces), max(lengths, default=0), lengths[-1] if lengths else 0]
        features += [lengths[-2] if len(lengths) > 1 else 0]
        features += [len(re.search("[0-9]*$", pieces[-1])[0]) if pieces else 0, lengths[0] if lengths else 0]
        features += [float(bool(part))]
    digits_only = float(not re.search("[^0-9.]", host))
    suffix = re.search(r"\.([^./]+)$", path)
    features += [len(suffix[1]) if suffix else 0, digits_only, float("xn--" in host)]
    return features


@pytest.mark.parametrize("url", URLS)
def test_lexical_features_agree_with_a_plain_implementation(url: str) -> None:
    torch.testing.assert_close(
        lexical_features(codes_of(url)), torch.tensor([expected_features(url)]), rtol=1e-5, atol=1e-5
    )


@given(st.lists(url_text, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_lexical_features_of_any_text_agree_with_a_plain_implementation(urls: list[str]) -> None:
    expected = torch.tensor([expected_features(url) for url in urls])
    torch.testing.assert_close(lexical_features(codes_of(*urls)), expected, rtol=1e-5, atol=1e-5)


def test_categories_are_equal_where_their_texts_are() -> None:
    first, second, third, absent = categories(
        codes_of("www.a.example/x/b/i.php", "a.example/i.PHP?q", "c.a.example.test/x/", "?"), BITS
    )
    last, middle, start, first_segment, last_segment, suffix = range(NUM_CATEGORIES)
    assert first[last] == second[last] != third[last]
    assert first[middle] == second[middle] == second[start] != third[middle]
    assert first[start] != third[start]
    assert first[first_segment] == third[first_segment] == third[last_segment] != second[first_segment]
    assert first[last_segment] == second[first_segment] == second[last_segment]
    assert first[suffix] == second[suffix] != third[suffix]
    assert third[suffix] == 0
    assert absent.tolist() == [0] * NUM_CATEGORIES


def test_nothing_depends_on_padding() -> None:
    codes = codes_of(*URLS)
    padded = F.pad(codes, (0, 9))
    assert found_tokens(padded) == found_tokens(codes)
    assert torch.equal(lexical_features(padded), lexical_features(codes))
    assert torch.equal(categories(padded, BITS), categories(codes, BITS))
    alone = [codes_of(url) for url in URLS]
    assert torch.equal(torch.cat([lexical_features(one) for one in alone]), lexical_features(codes))
    assert [found_tokens(one)[0] for one in alone] == found_tokens(codes)
