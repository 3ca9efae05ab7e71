"""Web addresses are told from other texts that QR codes hold, and every real URL counts as one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dbbd_cli.data.urls.kinds import other_kind, unwrapped


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com",
        "HTTP://EXAMPLE.COM/A B",
        "ftp://files.example/x",
        "http://intranet/",
        "example.com",
        "www.example.com/path?q=1#x",
        "user@example.com/path",
        "example.com:8080",
        "192.0.2.7/admin",
        "[2001:db8::1]:80/x",
        "bücher.example",
        "xn--bcher-kva.example",
        "例え.テスト/道",
        "under_score.example.com",
        "example.com./",
        "example.com.",
        "example.museum",
        "example.рф",
        "a.example",
        "photo.jgp:8080/x",
        "example.com/photo.jpg",
    ],
)
def test_web_addresses(text: str) -> None:
    assert other_kind(text) == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WIFI:T:WPA;S:net;P:secret;;", "the settings of a Wi-Fi network"),
        ("BEGIN:VCARD\nN:Doe\nURL:http://example.com\nEND:VCARD", "a contact (vCard)"),
        ("mailto:a@example.com", "an e-mail address"),
        ("a@example.com", "an e-mail address or plain text"),
        ("tel:+15550100", "a telephone number"),
        ("otpauth://totp/x?secret=1", "a key for one-time passwords"),
        ("javascript:alert(1)", "a script (javascript:)"),
        ("market://details?id=x", "a link to an app or service (market://)"),
        ("https://", "a URL without a host (https://)"),
        ("see example.com", "plain text"),
        ("hello", "plain text"),
        ("3.14", "plain text"),
        ("", "plain text"),
        ("photo.png", "the name of a file"),
        ("photo.jgp", "plain text that ends in no top-level domain"),
        ("urls.csv.nope", "plain text that ends in no top-level domain"),
        ("Dr.Who", "plain text that ends in no top-level domain"),
        ("folder/photo.png", "plain text"),
        ("one\ntwo", "text with line breaks or control characters"),
        (
            "http://a.example\nhttp://b.example",
            "text with line breaks or control characters that contains a web address",
        ),
        ("see http://a.example", "plain text that contains a web address"),
        ("http:/a.example", "a malformed web address"),
        ("HTTPS:a.example/x", "a malformed web address"),
        ("upi://pay?pa=a@b", "a link to an app or service (upi://)"),
        ("photos/", "plain text"),
    ],
)
def test_other_texts(text: str, kind: str) -> None:
    assert other_kind(text) == kind


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("URL:http://a.example/b", "http://a.example/b"),
        ("urlto: a.example", "a.example"),
        ("MEBKM:TITLE:a\\;b;URL:http\\://a.example/b\\;c;;", "http://a.example/b;c"),
        ("MEBKM:URL:a.example;TITLE:c;;", "a.example"),
        ("\ufeffhttp://a.example\n", "http://a.example"),
        (" a.example/?u=URL:x ", "a.example/?u=URL:x"),
        ("URL: ", "URL:"),
        ("MEBKM:TITLE:only;;", "MEBKM:TITLE:only;;"),
        ("URLS: a.example", "URLS: a.example"),
    ],
)
def test_bookmarks_are_unwrapped(text: str, url: str) -> None:
    assert unwrapped(text) == url


def test_all_real_urls_are_web_addresses(shared: Path) -> None:
    path = shared / "data" / "qr_urls.csv"
    if not path.is_file():
        pytest.skip("no real URLs")
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert [row["url"] for row in csv.DictReader(file) if other_kind(row["url"].strip())] == []
