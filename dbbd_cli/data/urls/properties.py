"""Trivial properties of URLs, and what makes URLs near duplicates."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dbbd_cli.data.properties import Property, Relation, categories, numbers
from dbbd_cli.data.urls.cleaning import host_of, split_url

_SAME_COLLECTION = "collect the URLs of all classes in the same way, or report this rule next to the results"
_EMPTY_PATH = f"set data.urls.empty_path: strip, {_SAME_COLLECTION}"
_ONE_OF_THEM = "remove all but one of them"
_BY_HOST = "keep the URLs of a host together with data.split.group: host"
_DIGITS = re.compile(r"\d+")
_ADDRESS = re.compile(r"[\d.]+|.*:.*")


def url_properties(urls: Sequence[str]) -> list[Property]:
    """Scheme, www., path, query, length, dots and top-level domain of URLs, as the network gets them."""
    parts = [split_url(url) for url in urls]
    hosts = [authority.rpartition("@")[2].lower() for _, authority, _ in parts]
    return [
        categories("scheme", [scheme[:-3].lower() or "none" for scheme, _, _ in parts], "set data.urls.scheme: strip"),
        categories("www.", [_yes(host.startswith("www.")) for host in hosts], "set data.urls.www: strip"),
        numbers("length", [len(url) for url in urls], _SAME_COLLECTION),
        categories("path", [_path(rest) for _, _, rest in parts], _EMPTY_PATH),
        categories("query", [_yes("?" in rest) for _, _, rest in parts], _SAME_COLLECTION),
        numbers("number of dots", [url.count(".") for url in urls], _SAME_COLLECTION),
        categories("top-level domain", [_top_level(url) for url in urls], _SAME_COLLECTION),
    ]


def url_relations(urls: Sequence[str]) -> list[Relation]:
    """The keys by which URLs are near duplicates, and their hosts."""
    hosts = [host_of(url) for url in urls]
    texts = [_DIGITS.sub("0", url.lower()) for url in urls]
    return [
        Relation("the same text but for case and numbers", texts, _ONE_OF_THEM),
        Relation(
            "the same host and path",
            [host + re.split("[?#]", split_url(url).rest)[0] for host, url in zip(hosts, urls, strict=True)],
            _BY_HOST,
        ),
        Relation("the same host", [host or None for host in hosts], _BY_HOST),
    ]


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _path(rest: str) -> str:
    path = re.split("[?#]", rest, maxsplit=1)[0]
    return "none" if not path else "only /" if path == "/" else "yes"


def _top_level(url: str) -> str:
    host = host_of(url)
    if _ADDRESS.fullmatch(host):
        return "IP address"
    return host.rpartition(".")[2] if "." in host else "none"
