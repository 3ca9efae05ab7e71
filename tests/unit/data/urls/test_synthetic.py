"""Synthetic URLs are reproducible, distinct and harmless, and the host of any text is found."""

import hashlib
import random
import re
import string
from collections import Counter

import pytest

from dbbd_cli.data.images.qr_code import MAX_BYTES
from dbbd_cli.data.urls.cleaning import host_of
from dbbd_cli.data.urls.synthetic import synthetic_urls

RESERVED = re.compile(r"(.+\.(example|test|invalid)|(192\.0\.2|198\.51\.100|203\.0\.113)\.\d{1,3})")


@pytest.fixture(scope="module")
def urls():
    return synthetic_urls(5000, 42)


def test_counts_and_uniqueness(urls):
    assert list(urls) == ["benign", "malicious"]
    assert all(len(members) == 5000 for members in urls.values())
    assert len({url for members in urls.values() for url in members}) == 10_000


def test_same_on_every_machine_and_python():
    text = "\n".join(url for members in synthetic_urls(500, 7).values() for url in members)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "b48e50159a58cef291cdbcbbe251d3c5805b6c0cc4bda453f6d668beef9191e1"
    )


def test_seed_matters():
    assert synthetic_urls(50, 1) == synthetic_urls(50, 1)
    assert synthetic_urls(50, 1) != synthetic_urls(50, 2)


def test_no_url_can_reach_a_real_host(urls):
    for url in urls["benign"] + urls["malicious"]:
        assert RESERVED.fullmatch(host_of(url)), url
        assert url.isascii()
        assert len(url) < MAX_BYTES
        # Nor may a host be hidden in a parameter or before an @.
        for named in re.findall(r"(?://|%2F%2F)(?:www\.)?([^/?#%@:]+)", url):
            assert RESERVED.fullmatch(named), url


def test_hosts_repeat_and_the_classes_share_some(urls):
    hosts = {name: Counter(map(host_of, members)) for name, members in urls.items()}
    assert len(hosts["benign"]) < 1000
    assert max(hosts["benign"].values()) > 50
    assert sum(count > 1 for count in hosts["malicious"].values()) > 500
    assert hosts["benign"].keys() & hosts["malicious"].keys()


def test_length_separates_the_classes_but_not_perfectly(urls):
    def accuracy(limit):
        right = sum(len(url) < limit for url in urls["benign"]) + sum(len(url) >= limit for url in urls["malicious"])
        return right / 10_000

    assert 0.7 < max(accuracy(limit) for limit in range(10, 150)) < 0.9


def test_the_malicious_shapes_are_there(urls):
    text = "\n".join(urls["malicious"])
    for shape in ("@", "//xn--", r"redirect\?url=http%3A", r"\.pdf\.exe", r"//\d+\.\d+\.\d+\.\d+:\d+/", "[0-9a-f]{32}"):
        assert len(re.findall(shape, text)) > 20, shape


def test_many_urls_stay_unique():
    many = synthetic_urls(30_000, 0)
    assert len(set(many["benign"]) | set(many["malicious"])) == 60_000


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("pbase.example/image/1", "pbase.example"),
        ("https://WWW.Shop.example:8080/a@b", "shop.example"),
        ("http://user:secret@shop.example/", "shop.example"),
        ("https://bank.example@198.51.100.7/login", "198.51.100.7"),
        ("//shop.example/x", "shop.example"),
        ("  https://shop.example ", "shop.example"),
        ("shop.example?u=http://other.example/", "shop.example"),
        ("shop.example/r/http://other.example/", "shop.example"),
        ("shop.example#x", "shop.example"),
        ("shop.example.", "shop.example"),
        ("http://[2001:DB8::1]:80/x", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("ftp://files.example", "files.example"),
        ("just words", "just words"),
        ("http://[broken/", "[broken"),
        ("", ""),
        ("/only/a/path", ""),
        ("://", ""),
    ],
)
def test_host_of(url, host):
    assert host_of(url) == host


def test_host_of_never_raises():
    rng = random.Random(0)
    alphabet = string.printable + "é日\ud800\0[]@:/?#.%" * 5
    for _ in range(3000):
        url = "".join(rng.choices(alphabet, k=rng.randrange(20)))
        assert isinstance(host_of(url), str)
