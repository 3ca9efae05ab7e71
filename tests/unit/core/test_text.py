"""Untrusted text is shown without characters that mislead a reader or a terminal, and counts agree with their nouns."""

import pytest

from dbbd_cli.core.text import capitalized, counted, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 大 é", "größe 大 é"),
        ("\x1b[31mred\n", "\\x1b[31mred\\n"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("a\u2028b\ud800", "a\\u2028b\\ud800"),
        ("blank\u3164", "blank\\u3164"),
        ("hidden a\u200db", "hidden a\\u200db"),
    ],
)
def test_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_characters_to_keep_are_kept() -> None:
    assert printable("a\nb\x07é", keep="\n") == "a\nb\\x07é"


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


def test_a_heading_keeps_the_capitals_of_its_words() -> None:
    assert [capitalized(words) for words in ("images", "URLs", "")] == ["Images", "URLs", ""]
