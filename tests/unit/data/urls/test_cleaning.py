"""Cleaning removes what says nothing about a site, is the same when repeated, and loses nothing else."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbbd_cli.data.urls.cleaning import UrlCleaning, UrlCleaningForText, ascii_host, clean_url, host_of, split_url

SETTINGS = [
    UrlCleaning(scheme=scheme, www=www, host_case=case, default_port=port, empty_path=empty)
    for scheme, www, case, port, empty in product(
        ("keep", "strip", "https"), ("keep", "strip"), ("keep", "lower"), ("keep", "strip"), ("keep", "strip")
    )
]
url_text = st.text(max_size=40) | st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "http://", "HTTPS://", "ftp://", "http:", "://", " "]),
        st.sampled_from(["", "u@", "u:p@"]),
        st.sampled_from(["www.", "WWW.www.", "", "www"]),
        st.text(alphabet="aB.1[]:é", max_size=8),
        st.sampled_from(["", ":80", ":443", ":8080", ":"]),
        st.text(alphabet="/?#aB: @", max_size=8),
    ),
)


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        ("https://www.A.example/B", "a.example/B"),
        ("http://a.example:80/", "a.example/"),
        ("http://a.example:443/", "a.example/"),
        ("http://http://www.www.a.example:80:443", "a.example"),
        ("www. a.example", "a.example"),
        ("a.example:443", "a.example"),
        ("http://a.example:8080/?q", "a.example:8080/?q"),
        ("http://User@www.a.example#x", "User@a.example#x"),
        (" a.example ", "a.example"),
        ("mailto:a@b.example", "mailto:a@b.example"),
        ("", ""),
    ],
)
def test_everything_that_says_nothing_about_a_site_is_removed(url: str, cleaned: str) -> None:
    assert clean_url(url, UrlCleaningForText()) == cleaned


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        ("http://a.example/", "http://a.example"),
        ("a.example/?q=/", "a.example?q=/"),
        ("a.example/#x", "a.example#x"),
        ("a.example/b/", "a.example/b/"),
        ("a.example//", "a.example//"),
        ("a.example?q/", "a.example?q/"),
    ],
)
def test_the_slash_of_an_empty_path_is_removed(url: str, cleaned: str) -> None:
    assert clean_url(url, UrlCleaning(empty_path="strip")) == cleaned
    assert clean_url(url, UrlCleaning()) == url


@given(url_text)
@settings(deadline=None)
def test_a_url_in_parts_is_complete(url: str) -> None:
    assert "".join(split_url(url)) == url


@given(url_text, st.sampled_from([UrlCleaningForText(), *SETTINGS]))
@settings(deadline=None)
def test_cleaning_twice_is_the_same_as_once(url: str, cleaning: UrlCleaning) -> None:
    cleaned = clean_url(url, cleaning)
    assert clean_url(cleaned, cleaning) == cleaned


@given(url_text)
@settings(deadline=None)
def test_by_default_only_spaces_around_a_url_are_removed(url: str) -> None:
    assert clean_url(url, UrlCleaning()) == url.strip()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user@www.MÜNCHEN.example:8080/ä", "xn--mnchen-3ya.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("\uff21.example\u3002test", "a.example.test"),  # a full-width letter and an ideographic full stop
        ("a.example/ä", "a.example"),
        ("é" * 254, ""),
    ],
)
def test_the_host_as_it_is_looked_up(url: str, host: str) -> None:
    assert ascii_host(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "https://user@www.A.example:443/x", "http://http://a.example/x", "http:// https://www.a.example", "a.example",
        "www.www.a.example/y", "WWW.a.example.", "//a.example:80#z", "http://a.example:8080?q",
    ],
)  # fmt: skip
def test_the_host_is_the_same_however_a_url_is_cleaned(url: str) -> None:
    """Otherwise URLs that are the same once they are cleaned could be in different splits."""
    options: dict[str, tuple[str, ...]] = {
        "scheme": ("keep", "strip", "https"), "www": ("keep", "strip"),
        "host_case": ("keep", "lower"), "default_port": ("keep", "strip"),
    }  # fmt: skip
    for chosen in product(*options.values()):
        cleaning = UrlCleaning.model_validate(dict(zip(options, chosen, strict=True)))
        assert host_of(clean_url(url, cleaning)) == host_of(url) == "a.example"
