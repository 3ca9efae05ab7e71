"""Tables of URLs are read whatever their separators and line ends, and bad rows are reported with their lines."""

from pathlib import Path

import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.candidates import Candidate, Source
from dbbd_cli.data.urls.sources import list_urls
from dbbd_cli.data.urls.table import iterate_urls

REAL_URLS = Path(__file__).parents[4] / ".." / "shared" / "data" / "qr_urls.csv"


def listed(tmp_path, content, url="url", label="label"):
    path = tmp_path / "urls.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list_urls(path, url, label)


def keys(source):
    return [candidate.key for candidate in source.candidates]


def test_rows_become_sorted_samples(tmp_path):
    source = listed(tmp_path, "url,label\nz.example,good\nb.example,bad\na.example, good \nb.example,bad\n")
    assert source == Source(
        kind="urls",
        classes=("bad", "good"),
        candidates=[
            Candidate("b.example", 0),
            Candidate("b.example", 0),
            Candidate("a.example", 1),
            Candidate("z.example", 1),
        ],
        roots=(),
        problems=[],
        ignored=0,
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_separators_line_ends_and_byte_order_mark(tmp_path, separator, newline):
    lines = ["url|note|label", "a.example|x|bad", "|", "", "b.example|y|good"]
    text = newline.join(lines).replace("|", separator)
    source = listed(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert keys(source) == ["a.example", "b.example"]
    assert source.problems == ["urls.csv line 3: too few fields: 2 instead of 3"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("separator", ["\t", ";", ","])
def test_what_excel_writes(tmp_path, encoding, separator):
    lines = ['"url"|label|"note"', "é.example/x|bad|", 'b.example/"q"|good|"two\r\nlines"', "|good|", "c.example|bad|x"]
    mark = "\ufeff" if encoding.endswith("e") else ""
    source = listed(tmp_path, (mark + "\r\n".join(lines) + "\r\n").replace("|", separator).encode(encoding))
    assert keys(source) == ["c.example", "é.example/x", 'b.example/"q"']
    assert source.problems == ["urls.csv line 5: the URL is empty"]


@pytest.mark.parametrize("separator", [";", ",", "\t", "|"])
@pytest.mark.parametrize("first", ["sep=|\r\n", '"sep=|"\r\n', "SEP=|\n"])
def test_a_first_line_that_names_the_separator(tmp_path, separator, first):
    lines = first + "url|label\r\na.example/x,y;z|bad\r\nb.example\r\nc.example|good\r\n"
    lines = lines.replace("x,y;z", "x" if separator in ",;" else "x,y;z").replace("|", separator)
    source = listed(tmp_path, lines)
    assert keys(source) == ["a.example/x" if separator in ",;" else "a.example/x,y;z", "c.example"]
    assert source.problems == ["urls.csv line 4: too few fields: 1 instead of 2"]


def test_separators_in_a_quoted_header_do_not_count(tmp_path):
    source = listed(tmp_path, 'url;label;"seen, when, where"\na.example;bad;x\nb.example;good;y\n')
    assert keys(source) == ["a.example", "b.example"]


def test_half_a_character_of_utf_16_costs_only_its_row(tmp_path):
    text = "\ufeffurl,label\na.example,good\nb\ud800.example,bad\nc.example,bad\n"
    source = listed(tmp_path, text.encode("utf-16-le", "surrogatepass"))
    assert keys(source) == ["c.example", "a.example"]
    assert len(source.problems) == 1
    assert source.problems[0].startswith("urls.csv line 3: the URL has a control character")


def test_quoted_fields(tmp_path):
    source = listed(tmp_path, 'url,label,note\n"a.example/x,""y""",bad,"two\nlines"\nb.example,good,\n,bad,\n')
    assert keys(source) == ['a.example/x,"y"', "b.example"]
    assert source.problems == ["urls.csv line 5: the URL is empty"]


def test_bad_rows_are_problems_with_their_line(tmp_path):
    long = "https://a.example/" + "x" * 2314
    rows = [
        "url,label",
        "a.example,good",
        ",good",
        "b.example,  ",
        "c.example",
        "d.example/a,b,bad",
        "e\0.example,bad",
        "f.example,b\0d",
        f"{long},bad",
        '"g\n.example",bad',
        "h\033[31m.example,bad",
        '"i"x.example,bad',
        "j.example,bad,,",
        "é.example,bad",
    ]
    source = listed(tmp_path, "\n".join(rows).encode() + b"\nk\xe9.example,bad")
    control = "has a control character, a line break, or bytes that are not UTF-8"
    assert source.problems == [
        "urls.csv line 3: the URL is empty",
        "urls.csv line 4: the class is empty",
        "urls.csv line 5: too few fields: 1 instead of 2",
        "urls.csv line 6: too many fields: 3 instead of 2; a URL that contains the separator must be quoted",
        f"urls.csv line 7: the URL {control}",
        f"urls.csv line 8: the class {control}",
        f"urls.csv lines 10 to 11: the URL {control}",
        f"urls.csv line 12: the URL {control}",
        "urls.csv line 13: is not valid CSV: ',' expected after '\"'",
        f"urls.csv line 16: the URL {control}",
    ]
    assert keys(source) == [long, "j.example", "é.example", "a.example"]


def test_an_open_quotation_mark_is_reported_with_the_lines_it_spans(tmp_path):
    rows = ["url,label", "a.example,good", "b.example,bad", '"c.example,good', "d.example,good"]
    source = listed(tmp_path, "\n".join(rows))
    assert source.problems == ["urls.csv lines 4 to 5: is not valid CSV: unexpected end of data"]


@pytest.mark.parametrize("length", [200_000, (1 << 20) - 5, (1 << 20) - 4, 1 << 20, 10_000_000])
def test_a_huge_field_costs_only_its_row(tmp_path, length):
    source = listed(tmp_path, "url,label\na.example,good\n" + "x" * length + ",bad\nb.example,bad\n")
    assert source.problems == ["urls.csv line 3: is not valid CSV: a field has over 131,072 characters"]
    assert keys(source) == ["b.example", "a.example"]


def test_a_missing_column_is_an_error(tmp_path):
    with pytest.raises(DataError, match="has no column url; its columns are: URL, label, x") as caught:
        listed(tmp_path, "URL,label,x\na.example,good,1\n")
    assert caught.value.hint == "did you mean URL? If so, choose the column with --set data.url_column=NAME"
    with pytest.raises(DataError, match="has no column label") as caught:
        listed(tmp_path, "url,Labels\na.example,good\n")
    assert "Labels" in caught.value.hint
    assert "--set data.label_column=" in caught.value.hint
    with pytest.raises(DataError) as caught:
        listed(tmp_path, "url;\033[31mx\na.example;good\n")
    assert "\033" not in caught.value.message
    with pytest.raises(DataError) as caught:
        listed(tmp_path, "url," + "x" * 100_000 + "\na.example,good\n")
    assert len(caught.value.message) < 1000


def test_a_path_that_is_too_long_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot be opened|does not exist"):
        list_urls(tmp_path / ("x" * 300), "url", "label")


def test_columns_can_be_chosen(tmp_path):
    source = listed(tmp_path, "class, address\nbad,a.example\ngood,b.example\n", "address", "class")
    assert keys(source) == ["a.example", "b.example"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1 is empty"),
        ('"url', "line 1 is not valid CSV"),
        ("url,label\n", "no usable row"),
        ("url,label\n\n\n", "no usable row"),
        ("url,label\na.example,bad\nb.example,bad\n", "only the class bad"),
        ("url,label\n,bad\n,good\n", "no usable row"),
        ("url,label\na.example,bad\n".encode("utf-32"), "is not a text file in UTF-8"),
        ("url,label\na.example,bad\n".encode("utf-16")[:-1], "begins like UTF-16, but is not: truncated data"),
        ("sep=;\n", "line 2 is empty"),
        ("sep=;\nurl,label\na.example,bad\nb.example,good\n", "has no column url; its columns are: url,label"),
        ("url,label\na.example,bad\n".encode("utf-16-le"), "is not a text file in UTF-8"),
        ("url,label" + "x" * 2_000_000, "has a line of over 1,048,576 characters"),
    ],
)
def test_unusable_tables_are_errors(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        listed(tmp_path, content)


def test_problems_are_shown_if_no_row_is_usable(tmp_path):
    with pytest.raises(DataError) as caught:
        listed(tmp_path, "url,label\n" + "a.example\n" * 30)
    assert len(caught.value.details) == 11


def test_reading_stops_after_too_many_bad_rows(tmp_path):
    with pytest.raises(DataError, match="has more than 100,000 unusable rows") as caught:
        listed(tmp_path, "url,label\n" + "x\n" * 200_000)
    assert len(caught.value.details) == 11


def test_a_path_that_is_not_a_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a table"):
        list_urls(tmp_path, "url", "label")
    (tmp_path / "urls.csv").touch()
    with pytest.raises(DataError, match="does not exist") as caught:
        list_urls(tmp_path / "url.csv", "url", "label")
    assert "urls.csv" in caught.value.hint
    with pytest.raises(DataError, match="cannot be opened"):
        list_urls(Path("a\0b"), "url", "label")


@pytest.mark.skipif(not REAL_URLS.exists(), reason="the real URLs are not here")
def test_real_urls_are_read():
    source = list_urls(REAL_URLS, "url", "label")
    labels = [candidate.label for candidate in source.candidates]
    assert (source.classes, len(labels), labels.count(0)) == (("benign", "malicious"), 10_000, 5000)
    assert source.problems == []
    assert len(set(keys(source))) > 9_900


@pytest.mark.parametrize(
    "content",
    [
        "url,x\na.example,1\nb.example,2\n".encode("utf-8-sig"),
        "x;url\r\n1;a.example\r\n2;b.example\r\n".encode("utf-16"),
        b"sep=\t\nurl\tx\na.example\t1\nb.example\t2\n",
    ],
)
def test_urls_without_classes(tmp_path, content):
    path = tmp_path / "urls.csv"
    path.write_bytes(content)
    assert [(url, problem) for _, url, problem in iterate_urls(path, "url")] == [("a.example", ""), ("b.example", "")]
