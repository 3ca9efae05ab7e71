"""YAML is read as YAML 1.2 has it, every key has its line, and hostile text is refused at once."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dbbd_cli.config import yaml_text
from dbbd_cli.config.yaml_text import read_yaml
from dbbd_cli.core.errors import ConfigError


@pytest.fixture(params=["libyaml", "python"])
def _each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(yaml_text, "_LOADER", yaml.SafeLoader)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")


def failure(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read_yaml(text, "x.yaml")
    return caught.value


def problems(text: str) -> list[str]:
    return [problem.block("x.yaml") for problem in read_yaml(text, "x.yaml").problems]


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1e-6", 1e-6),
        ("1.e+3", 1e3),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("1e999", float("inf")),
        ("0", 0),
        ("+12", 12),
        ("-3", -3),
        ("9" * 30, int("9" * 30)),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("Null", None),
    ],
)
def test_numbers_booleans_and_null(text: str, value: object) -> None:
    read = read_yaml(f"a: {text}", "x.yaml").values["a"]
    assert (type(read), read) == (type(value), value)


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize(
    "text",
    [
        *("no", "yes", "on", "off", "y", "n", "No", "tRUE", "nULL", "nan", "inf", "=", "<<", "2024-01-31"),
        *("1:30", "190:20:30", "010", "007", "0o17", "0x1F", "0b1", "1_000", "1e", ".e5", "1.2.3"),
        "2024-01-31T10:00:00Z",
    ],
)
def test_text_stays_text(text: str) -> None:
    assert read_yaml(f"a: {text}", "x.yaml").values == {"a": text}
    assert read_yaml(f"{text}: a", "x.yaml").values == {text: "a"}


@pytest.mark.parametrize("text", ["'1'", '"true"', "'null'", "''", '"1e-4"', "|-\n  7"])
def test_quoted_values_are_text(text: str) -> None:
    read = read_yaml(f"a: {text}", "x.yaml")
    assert isinstance(read.values["a"], str)
    assert read.problems == []


@pytest.mark.usefixtures("_each_parser")
def test_every_key_has_its_line() -> None:
    document = read_yaml("# top\na: 1\nb:\n  c: {d: 1,\n      e: 2}\n  f:\n  - x\n  - y\n", "x.yaml")
    assert document.values == {"a": 1, "b": {"c": {"d": 1, "e": 2}, "f": ["x", "y"]}}
    assert document.places == {
        ("a",): 2,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "c", "d"): 4,
        ("b", "c", "e"): 5,
        ("b", "f"): 6,
        ("b", "f", 0): 7,
        ("b", "f", 1): 8,
    }
    assert document.place(("b", "f")) == 6
    assert document.place(("b", "absent", "too")) == 3
    assert document.place(("absent",)) == "x.yaml"


@pytest.mark.usefixtures("_each_parser")
def test_repeated_keys_and_keys_that_are_not_text_are_collected() -> None:
    text = """\
a: 1
a: 2
b: {c: [c, c], c: 3}
d:
  '1': x
  1: y
'a': 3
null: 4
"""
    assert problems(text) == [
        "x.yaml:2: a is set twice, first on line 1\n    keep one of the two",
        "x.yaml:3: b.c is set twice, first on line 3\n    keep one of the two",
        "x.yaml:6: the key d.1 is not text\n    write '1', in quotes",
        "x.yaml:6: d.1 is set twice, first on line 5\n    keep one of the two",
        "x.yaml:7: a is set twice, first on line 1\n    keep one of the two",
        "x.yaml:8: the key null is not text\n    write 'null', in quotes",
    ]


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("*x", 1), ("!t {a: 1}", 1), ("&x {a: 1}", 1), ("!!set {a}", 1), ("!!binary aGk=", 1), ("! a", 1),
        ("a: !!python/object:os.system x", 4), ("a: [b, &c d]", 8), ("&a b: c", 1), ("? !a b\n: c", 3), ("a: *b", 4),
    ],
)  # fmt: skip
def test_anchors_aliases_and_tags_are_refused(text: str, column: int) -> None:
    error = failure(text)
    assert error.message == f"x.yaml:1:{column}: anchors, aliases and tags are not supported"
    assert error.hint == "write the value out, or quote text that starts with &, * or !"


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize(("text", "column"), [("a: {{b}}", 5), ("? [i]\n: j", 3), ("a: {[b]: c}", 5)])
def test_a_key_that_is_a_collection_is_refused(text: str, column: int) -> None:
    error = failure(text)
    assert error.message == f"x.yaml:1:{column}: a key must be text"
    assert error.hint == "quote text that starts with { or ["


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="words of libyaml")
@pytest.mark.parametrize(
    ("text", "message", "line", "hint"),
    [
        (
            "a: 1\nb: [1, 2\n\n",
            "x.yaml:2:9: not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence from line 2)",
            "b: [1, 2\n        ^",
            "",
        ),
        (
            "training:\n  epochs 3\n  batch_size: 4\n",
            "x.yaml:3:13: not valid YAML: mapping values are not allowed in this context",
            "  batch_size: 4\n            ^",
            "is a ':' missing in the line before, or the indentation off? quote text that has ': ' in it",
        ),
        (
            "training:\n\tepochs: 3\n",
            "x.yaml:2:1: not valid YAML: found character that cannot start any token",
            "→epochs: 3\n^",
            "indent with spaces, not tabs; quote text that starts with @ or `",
        ),
        (
            "training:\n  epochs: 3\n seed: 1\n",
            "x.yaml:3:2: not valid YAML: did not find expected key (while parsing a block mapping from line 1)",
            " seed: 1\n ^",
            "do the keys of one section start in the same column?",
        ),
        (
            "a: *.png",
            "x.yaml:1:5: not valid YAML: did not find expected alphabetic or numeric character",
            "a: *.png\n    ^",
            "quote text that starts with * or &",
        ),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: a second document starts here", "---\n^", ""),
        (
            "a: 1\r\nb: \x1b[31m",
            "x.yaml:2:4: not valid YAML: a control character",
            "b: \\x1b[31m\n   ^",
            "",
        ),
        ("a: 1\n...\n%TAG ! b\n", "x.yaml:3:1: %TAG is not supported", "%TAG ! b\n^", ""),
    ],
)
def test_syntax_errors_show_the_line(text: str, message: str, line: str, hint: str) -> None:
    error = failure(text)
    assert (error.message, error.details, error.hint) == (message, [line], hint)


def test_only_the_surroundings_of_a_long_line_are_shown() -> None:
    (line,) = failure(f"a: {'x' * 5000} b: {'y' * 5000}").details
    text, caret = line.split("\n")
    assert len(text) <= 100
    assert text[len(caret) - 1] == ":"


@pytest.mark.usefixtures("_each_parser")
@pytest.mark.parametrize("text", ["[" * 51, "{a: " * 51, "- " * 51, "".join(" " * n + "a:\n" for n in range(52))])
def test_deep_nesting_is_refused(text: str) -> None:
    message = failure(text).message
    assert message.startswith("x.yaml:")
    assert message.endswith(": nested more than 50 levels deep")


def test_fifty_levels_are_read() -> None:
    value: Any = read_yaml("[" * 50 + "7" + "]" * 50, "x.yaml").values
    for _ in range(50):
        (value,) = value
    assert value == 7


def test_too_many_values_are_refused() -> None:
    read_yaml("".join(f"k{n}: 1\n" for n in range(9_999)), "x.yaml")
    error = failure("".join(f"k{n}: 1\n" for n in range(10_000)))
    assert error.message == "x.yaml:10000:8: more than 10,000 values"


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="the Python parser takes about a second")
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("".join(f"%TAG !a{n}! b\n" for n in range(60_000)) + "---\na: 1\n", "%TAG is not supported"),
        ("".join(f"k{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else 'x'}]\n" for n in range(900)), "anchors, aliases"),
        ("[" * 990_000, "nest"),
        ("? " * 490_000, "a key must be text"),
        ("a: !" + "%41" * 330_000 + " b", "anchors, aliases and tags"),
    ],
    ids=["tag directives", "alias bomb", "flow", "keys", "tag"],
)
def test_hostile_text_is_refused(text: str, what: str) -> None:
    assert what in failure(text).message


def test_a_number_of_a_million_digits_is_text() -> None:
    assert read_yaml("a: " + "9" * 990_000, "x.yaml").values["a"] == float("inf")
