"""Whatever a file contains, its reader returns a valid result or raises the documented error."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import mutated
from planted_readers import READERS as PLANTED
from properties import fuzzed
from reader import Reader, examine
from readers import NAMES, reader_named

pytestmark = pytest.mark.filterwarnings("ignore")

# Drawn as bytes, which is much faster than as integers.
_STEPS = (st.binary(min_size=6, max_size=6) | st.binary(min_size=12, max_size=24)).map(
    lambda raw: list(struct.iter_unpack("<3H", raw[: len(raw) // 6 * 6]))
)
_TEXTS = st.text(max_size=12) | st.sampled_from(["\0", "../x", "\x1b[2J", "\ud800", "format", "level", "task", "kind"])
_NUMBERS = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, -(2**63), 10**12, 10**40])
_STRUCTURES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def inputs(draw: st.DrawFn, reader: Reader, seeds: Sequence[bytes]) -> bytes:
    """Return mutated valid inputs in six of eight cases, otherwise arbitrary structures, text or bytes."""
    kind = draw(st.integers(0, 7))
    if kind < 6:
        return mutated(reader, draw(st.sampled_from(seeds)), draw(_STEPS), seeds)
    if kind == 6 or reader.structured:
        return json.dumps(draw(_STRUCTURES)).encode()
    text = draw(st.binary(max_size=200) | st.text(max_size=60))
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def fuzz(reader: Reader, folder: Path) -> tuple[int, int]:
    """Give inputs to the reader; return how many there were and how many it accepted."""
    given_inputs = accepted = 0

    @fuzzed
    @given(inputs(reader, reader.seeds()))
    def every_input_is_answered(data: bytes) -> None:
        nonlocal given_inputs, accepted
        given_inputs += 1
        accepted += examine(reader, data, folder)

    every_input_is_answered()
    return given_inputs, accepted


@pytest.mark.parametrize("name", [name for names in NAMES.values() for name in names])
def test_every_input_is_accepted_or_refused_as_documented(
    name: str, report: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # completion depends on the current folder
    reader = reader_named(name)
    for seed in reader.seeds():
        assert examine(reader, seed, tmp_path), "a valid input is refused"
        assert reader.seal is None or examine(reader, reader.seal(seed), tmp_path), "the seal breaks a valid input"
    given_inputs, accepted = fuzz(reader, tmp_path)
    report(f"{given_inputs:,} inputs: {accepted:,} accepted, the others refused as documented")


@pytest.mark.parametrize("name", ["raises_at_once", "breaks_its_promise", "says_two_lines", "runs_out_of_memory"])
def test_a_planted_defect_is_found(name: str, tmp_path: Path) -> None:
    reader = next(reader for reader in PLANTED if reader.name == name)
    with pytest.raises((KeyError, AssertionError)):
        fuzz(reader, tmp_path)
