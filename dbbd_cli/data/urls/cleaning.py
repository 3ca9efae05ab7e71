"""Clean URLs, so that no classifier learns accidents of how they were collected, such as whether a scheme was kept."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Set
from typing import Literal, NamedTuple

from pydantic import Field

from dbbd_cli.config.sections import Section

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_AUTHORITY = re.compile(r"[^/?#]*")
_SCHEMES = re.compile(r"(?:\s*[A-Za-z][A-Za-z0-9+.-]*://)+\s*")
_EMPTY_PATH = re.compile(r"/(?=[?#]|$)")
_WWW = re.compile(r"^(?:\s*www\.)+(?=.)", re.IGNORECASE)
_BEFORE_AUTHORITY = re.compile(r"^(?:\s*(?:[A-Za-z][A-Za-z0-9+.-]*:)?//)+")
_MAX_HOST = 253
_DEFAULT_PORTS = {"http": "80", "https": "443", "ftp": "21"}


class UrlCleaning(Section):
    """How URLs are changed before anything else sees them. By default, not at all."""

    scheme: Literal["keep", "strip", "https"] = Field(
        "keep", description="keep; strip: remove http:// and the like; https: replace the scheme, or add one"
    )
    www: Literal["keep", "strip"] = Field("keep", description="whether to keep or remove www. at the start of the host")
    host_case: Literal["keep", "lower"] = Field("keep", description="whether to change the host to lower case")
    default_port: Literal["keep", "strip"] = Field(
        "keep", description="whether to keep or remove a port that is the default of the scheme (80, 443 or 21)"
    )
    empty_path: Literal["keep", "strip"] = Field(
        "keep",
        description="whether to keep or remove the slash of an empty path; with and without it, a URL is the same",
    )


class UrlCleaningForText(UrlCleaning):
    """How URLs are changed before their text is classified: everything that says nothing about a site is removed."""

    scheme: Literal["keep", "strip", "https"] = Field(
        "strip", description="keep; strip: remove http:// and the like; https: replace the scheme, or add one"
    )
    www: Literal["keep", "strip"] = Field(
        "strip", description="whether to keep or remove www. at the start of the host"
    )
    host_case: Literal["keep", "lower"] = Field("lower", description="whether to change the host to lower case")
    default_port: Literal["keep", "strip"] = Field(
        "strip", description="whether to keep or remove a port that is the default of the scheme (80, 443 or 21)"
    )


class UrlParts(NamedTuple):
    """A URL in pieces, which joined give the URL again. The scheme is optional; any text can be split."""

    scheme: str
    """With `://`; empty if there is none."""
    authority: str
    """User, host and port: everything up to the first of `/?#`."""
    rest: str
    """Path, query and fragment."""


def split_url(url: str) -> UrlParts:
    """Split a URL, or any text, into scheme, authority and the rest."""
    scheme = found[0] if (found := _SCHEME.match(url)) else ""
    return UrlParts(scheme, *_split_rest(url[len(scheme) :]))


def _split_rest(text: str) -> tuple[str, str]:
    """The authority and the rest of a URL without its scheme."""
    authority = _AUTHORITY.match(text)
    assert authority is not None
    return authority[0], text[authority.end() :]


def clean_url(url: str, cleaning: UrlCleaning) -> str:
    """Change a URL as the settings say. Cleaning twice gives the same as once."""
    url = url.strip()
    while (cleaned := _clean_once(url, cleaning)) != url:  # nested ones, such as http://http://
        url = cleaned
    return url


def _clean_once(url: str, cleaning: UrlCleaning) -> str:
    schemes = found[0] if (found := _SCHEMES.match(url)) else ""
    authority, rest = _split_rest(url[len(schemes) :])
    user, at, host = authority.rpartition("@")
    if cleaning.host_case == "lower":
        host = host.lower()
    if cleaning.www == "strip" and (found := _WWW.match(host)):
        host = host[found.end() :]
    if cleaning.default_port == "strip":
        default = _DEFAULT_PORTS.get(schemes.strip()[:-3].rpartition("/")[2].strip().lower())
        # Without the scheme, nobody could tell later whose default a port is.
        kept_scheme = cleaning.scheme == "keep" and default is not None
        host = _without_ports(host, {"", default} if kept_scheme else {"", "80", "443", default})
    if cleaning.empty_path == "strip" and _EMPTY_PATH.match(rest):
        rest = rest[1:]
    schemes = {"keep": schemes, "strip": "", "https": "https://"}[cleaning.scheme]
    return f"{schemes}{user}{at}{host}{rest}".strip()


def _without_ports(host: str, ports: Set[str | None]) -> str:
    end = len(host)
    while (colon := host.rfind(":", 0, end)) >= 0 and host[colon + 1 : end] in ports:
        end = colon
    return host[:end]


def host_of(url: str) -> str:
    """Return the host of a URL in lower case, without user, port, "www." and final dot: the same however it is cleaned.

    The scheme is optional. For text that is not a URL, return everything up to the first of `/?#`; no error is raised.
    """
    rest = _BEFORE_AUTHORITY.sub("", url).strip()
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].lower()
    host = authority.rpartition("@")[2]
    if bracketed := re.match(r"\[([^\]]*)\]", host):
        return bracketed[1]
    if host.count(":") == 1:  # more than one: an IPv6 address without its brackets
        host = host.partition(":")[0]
    return _WWW.sub("", host.removesuffix("."), count=1)


def ascii_host(url: str) -> str:
    """Return the host of a URL as it is looked up, such as `xn--pple-43d.com` for one with a Cyrillic letter.

    After UTS #46 and Punycode (RFC 3492). Empty for text that is longer than a host may be.
    """
    host = unicodedata.normalize("NFKC", host_of(url)).lower()
    if len(host) > _MAX_HOST:
        return ""
    labels = host.replace("\u3002", ".").split(".")  # the ideographic full stop separates labels too
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels)


def url_sha256(url: str) -> str:
    """The content hash of a URL."""
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
