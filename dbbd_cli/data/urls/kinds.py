"""Tell web addresses from other texts, such as those that QR codes hold."""

from __future__ import annotations

import re

from dbbd_cli.data.images.formats import FORMAT_OF_SUFFIX
from dbbd_cli.data.problems import UNPRINTABLE
from dbbd_cli.data.urls.cleaning import split_url
from dbbd_cli.data.urls.top_level_domains import is_top_level_domain

_WEB_SCHEMES = ("http://", "https://", "ftp://")
_KINDS = {
    "wifi:": "the settings of a Wi-Fi network",
    "begin:vcard": "a contact (vCard)",
    "mecard:": "a contact (MeCard)",
    "bizcard:": "a contact (BizCard)",
    "begin:vcalendar": "a calendar entry",
    "begin:vevent": "a calendar entry",
    "mailto:": "an e-mail address",
    "matmsg:": "an e-mail message",
    "smtp:": "an e-mail message",
    "tel:": "a telephone number",
    "sms:": "a text message",
    "smsto:": "a text message",
    "mmsto:": "a text message",
    "geo:": "a place",
    "otpauth:": "a key for one-time passwords",
    "bitcoin:": "a payment address",
    "ethereum:": "a payment address",
    "litecoin:": "a payment address",
    "bcd\n": "a bank transfer (EPC)",
    "spc\n": "a bank transfer (Swiss QR)",
    "bcd\r": "a bank transfer (EPC)",
    "spc\r": "a bank transfer (Swiss QR)",
    "data:": "embedded data (data:)",
    "blob:": "embedded data (blob:)",
    "javascript:": "a script (javascript:)",
    "vbscript:": "a script (vbscript:)",
}
_PREFIX = re.compile(r"(?:URL|URLTO):\s*(?=\S)", re.IGNORECASE)
_BOOKMARK = re.compile(r"MEBKM:(?:.*;)?URL:((?:[^;\\]|\\.)+)", re.IGNORECASE | re.DOTALL)
_ESCAPED = re.compile(r"\\(.)")
_MALFORMED = re.compile(r"https?:", re.IGNORECASE)
_INSIDE = re.compile(r"\bhttps?://\w", re.IGNORECASE)
_SEVERAL_LINES = "text with line breaks or control characters"
_LABEL = r"[^\W_](?:[\w-]*[^\W])?|_[\w-]+"
_HOST = re.compile(rf"(?:(?:{_LABEL})\.)+([^\W\d_][\w-]*[^\W_])\.?")
_IPV4 = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}")
_IPV6 = re.compile(r"\[[0-9a-fA-F:.%]+\]")
_PORT = re.compile(r":\d*$")
_FILE_ENDINGS = frozenset(suffix[1:] for suffix in FORMAT_OF_SUFFIX) | {"csv", "tsv", "txt", "pdf", "json", "xlsx"}
"""Endings of file names that are no top-level domains."""


def unwrapped(text: str) -> str:
    """Return the web address in a text that phones open as one: a bookmark (MEBKM) or one after "URL:" or "URLTO:".

    Any other text is returned as it is, without white space and a byte-order mark at its ends.
    """
    text = text.strip().removeprefix("\ufeff").lstrip()
    if found := _BOOKMARK.match(text):
        return _ESCAPED.sub(r"\1", found[1]).strip()
    return _PREFIX.sub("", text, count=1) if _PREFIX.match(text) else text


def other_kind(text: str) -> str:
    """Return what a text is if it is not a web address, such as "plain text"; empty if it is one.

    A web address begins with http://, https:// or ftp://, or with a host that has a dot, and then has no spaces. A host
    alone must also end in a top-level domain that exists.
    """
    kind = _other_kind(text)
    inside = kind in ("plain text", _SEVERAL_LINES) and _INSIDE.search(text)
    return f"{kind} that contains a web address" if inside else kind


def _other_kind(text: str) -> str:
    lowered = text[:32].lower()
    for beginning, kind in _KINDS.items():
        if lowered.startswith(beginning):
            return kind
    if UNPRINTABLE.search(text):
        return _SEVERAL_LINES
    scheme, authority, rest = split_url(text)
    host = _PORT.sub("", authority.rpartition("@")[2])
    if scheme.lower() in _WEB_SCHEMES:
        return "" if host else f"a URL without a host ({scheme})"
    if scheme:
        return f"a link to an app or service ({scheme})"
    if _MALFORMED.match(text):
        return "a malformed web address"
    if re.search(r"\s", text):
        return "plain text"
    if "@" in authority and not rest:
        return "an e-mail address or plain text"
    if _IPV4.fullmatch(host) or _IPV6.fullmatch(host):
        return ""
    found = _HOST.fullmatch(host)
    if not found:
        return "plain text"
    ending = found[1].lower()
    if ending in _FILE_ENDINGS:
        return "the name of a file"
    if text == host and not is_top_level_domain(ending):
        return "plain text that ends in no top-level domain"
    return ""
