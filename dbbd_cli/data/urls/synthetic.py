"""Generate synthetic URLs, benign and malicious in shape.

All hosts are in the reserved domains .example, .test and .invalid, or in the address ranges reserved for documentation:
none of these URLs leads anywhere.
"""

# ruff: noqa: SIM905 - word lists are most readable as text

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_BRANDS = (
    "mapletrust bluepeak fernbank northgate silverline oakandriver quickparcel brightmail cloudnest harborpay "
    "greenfield citycourier skyloft papertrail redwood summitbank lakeside telenova musichall gamehaven "
    "bookbarn homeworks streamly photoden travelio jobfinder autoplaza petcorner healthdesk learnhub"
).split()
_SUBDOMAINS = "shop news blog docs support m en forum travel media images careers".split()
_SECTIONS = "news sports business culture science travel food health garden music films politics weather local".split()
_WORDS = (
    "winter market river open guide city summer team record library review school garden light history player "
    "project house season family report island budget festival recipe league museum album energy village coach "
    "station bridge morning story forest painter design signal valley mountain"
).split()
_LURES = (
    "secure login account verify update signin billing confirm wallet support service unlock alert bonus refund".split()
)
_ODD_ENDINGS = "top.test click.test win.test xyz.test icu.invalid loan.invalid zip.test gq.invalid".split()
_PROGRAMS = "exe scr apk js jar msi hta iso".split()
_LOOK_ALIKES = (("l", "1"), ("o", "0"), ("e", "3"), ("a", "4"), ("i", "1"), ("s", "5"), ("m", "rn"), ("w", "vv"))
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")
_SCHEMES = ("https://", "http://", "", "")

_HEX = "0123456789abcdef"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

_HOSTS = [f"{brand}.example" for brand in _BRANDS]
_HOSTS += [f"{subdomain}.{brand}.example" for subdomain in _SUBDOMAINS for brand in _BRANDS]


class _Dice:
    """Random choices based on `random()` alone, whose sequence is the same in every version of Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - nothing here is secret

    def below(self, end: int) -> int:
        return int(self._random() * end)

    def chance(self, share: float) -> bool:
        return self._random() < share

    def pick(self, options: Sequence[str]) -> str:
        return options[self.below(len(options))]

    def popular(self, options: Sequence[str]) -> str:
        """Pick early options far more often than late ones."""
        draw = self._random()
        return options[int(draw * draw * len(options))]

    def words(self, least: int, most: int, joint: str = "-") -> str:
        return joint.join(self.pick(_WORDS) for _ in range(least + self.below(most - least + 1)))

    def token(self, alphabet: str, least: int, most: int) -> str:
        return "".join(self.pick(alphabet) for _ in range(least + self.below(most - least + 1)))


def _site(dice: _Dice) -> str:
    return dice.pick(_SCHEMES) + dice.pick(("www.", "", "", "")) + dice.popular(_HOSTS)


def _section(dice: _Dice) -> str:
    return f"{_site(dice)}/{dice.pick(_SECTIONS)}/{dice.words(1, 2)}"


def _article(dice: _Dice) -> str:
    return f"{_site(dice)}/{2005 + dice.below(20)}/{1 + dice.below(12):02}/{dice.words(1, 4)}"


def _wiki(dice: _Dice) -> str:
    return f"{_site(dice)}/wiki/{dice.words(1, 2, '_').title()}"


def _profile(dice: _Dice) -> str:
    return f"{_site(dice)}/{dice.pick(_WORDS)}.{dice.pick(_WORDS)}{dice.below(100)}"


def _product(dice: _Dice) -> str:
    return f"{_site(dice)}/{dice.words(1, 2)}-{dice.below(100_000)}.html"


def _search(dice: _Dice) -> str:
    return f"{_site(dice)}/search?q={dice.words(1, 3, '+')}"


def _script(dice: _Dice) -> str:
    return f"{_site(dice)}/index.php?option=view&id={dice.below(10_000)}&lang={dice.pick(('en', 'de', 'fr', 'es'))}"


def _campaign(dice: _Dice) -> str:
    return (
        f"{_site(dice)}/{dice.words(2, 4)}?utm_source={dice.pick(_SUBDOMAINS)}"
        f"&utm_campaign={dice.words(1, 2, '_')}&ref={dice.token(_HEX, 8, 32)}"
    )


def _address(dice: _Dice) -> str:
    return f"{dice.pick(_NETWORKS)}.{1 + dice.below(120)}"


def _device(dice: _Dice) -> str:
    return f"http://{_address(dice)}:{8000 + dice.below(100)}/{dice.pick(_SECTIONS)}/{dice.pick(_WORDS)}.html"


def _disguised(dice: _Dice) -> str:
    """A brand, usually with one letter replaced by a look-alike."""
    brand = dice.pick(_BRANDS)
    old, new = _LOOK_ALIKES[dice.below(len(_LOOK_ALIKES))]
    return brand.replace(old, new, 1)


def _look_alike(dice: _Dice) -> str:
    host = f"{_disguised(dice)}-{dice.popular(_LURES)}.{dice.popular(_LURES[:3])}.example"
    path = f"{dice.pick(_LURES)}/{dice.pick(_LURES)}"
    return f"{dice.pick(_SCHEMES)}{host}/{path}/{dice.below(10_000)}.php?session={_session(dice)}"


def _many_labels(dice: _Dice) -> str:
    labels = ".".join(_LURES[: 1 + dice.below(4)])
    host = f"{dice.popular(_BRANDS)}.example.{labels}.{dice.popular(_WORDS)}.test"
    return f"{dice.pick(_SCHEMES)}{host}/{dice.pick(_LURES)}?s={_session(dice)}"


def _session(dice: _Dice) -> str:
    return dice.token(_BASE64, 6, 40) if dice.chance(0.5) else dice.token(_HEX, 16, 64)


def _bare_address(dice: _Dice) -> str:
    port = f":{1024 + dice.below(60_000)}" if dice.chance(0.4) else ""
    return f"http://{_address(dice)}{port}/~{dice.pick(_BRANDS)}/{dice.pick(_LURES)}.php?id={_session(dice)}"


def _at_sign(dice: _Dice) -> str:
    target = _address(dice) if dice.chance(0.5) else f"{dice.popular(_WORDS)}.{dice.pick(_ODD_ENDINGS)}"
    return f"https://{dice.popular(_HOSTS)}@{target}/{dice.pick(_LURES)}/{dice.token(_LETTERS, 4, 32)}"


def _punycode(dice: _Dice) -> str:
    brand = dice.pick(_BRANDS)
    host = f"xn--{brand[:-1]}-{dice.pick(_LETTERS)}{dice.pick(('a', 'b', '4'))}{brand[0]}.example"
    return f"https://{host}/{dice.pick(_LURES)}?session={_session(dice)}"


def _redirect(dice: _Dice) -> str:
    target = f"http%3A%2F%2F{dice.popular(_WORDS)}-{dice.pick(_LURES)}.{dice.pick(_ODD_ENDINGS)}%2F"
    return f"{_site(dice)}/redirect?url={target}{dice.token(_LETTERS, 4, 16)}"


def _download(dice: _Dice) -> str:
    host = f"{dice.popular(_WORDS)}-{dice.pick(_WORDS[:5])}.{dice.pick(_ODD_ENDINGS)}"
    path = dice.pick(("", "files/", "wp-content/uploads/"))
    return f"{dice.pick(_SCHEMES)}{host}/{path}{dice.words(1, 2, '_')}_{dice.below(10_000)}.pdf.{dice.pick(_PROGRAMS)}"


def _short_lure(dice: _Dice) -> str:
    return f"{dice.pick(_SCHEMES)}{dice.popular(_WORDS)}.{dice.pick(_ODD_ENDINGS)}/{dice.token(_LETTERS, 4, 8)}"


Shape = Callable[[_Dice], str]

# The frequency of a shape is the number of its repetitions. Some belong to both classes (a hacked site looks like any
# other), so that no classifier can be perfect. Malicious URLs are longer on average, which shows in the QR code.
_BENIGN: tuple[Shape, ...] = (
    *(_section, _section, _section, _article, _article, _article, _wiki, _wiki, _profile, _profile),
    *(_product, _product, _product, _search, _search, _script, _script, _campaign, _campaign, _device),
)
_MALICIOUS: tuple[Shape, ...] = (
    *(_look_alike, _look_alike, _look_alike, _many_labels, _many_labels, _many_labels, _bare_address, _bare_address),
    *(_at_sign, _at_sign, _punycode, _punycode, _redirect, _redirect, _download, _download),
    *(_short_lure, _script, _article, _campaign),
)


def synthetic_urls(count_per_class: int, seed: int) -> dict[str, list[str]]:
    """Generate URLs of two classes that differ in shape, though not perfectly; many share a host.

    The same arguments give the same URLs on every machine and in every version of Python.

    Args:
        count_per_class: number of URLs in each class.
        seed: any integer.

    Returns:
        The URLs by class, "benign" and "malicious"; all are distinct.
    """
    dice = _Dice(seed)
    seen: set[str] = set()
    urls: dict[str, list[str]] = {"benign": [], "malicious": []}
    for name, shapes in (("benign", _BENIGN), ("malicious", _MALICIOUS)):
        while len(urls[name]) < count_per_class:
            url = shapes[dice.below(len(shapes))](dice)
            if url not in seen:
                seen.add(url)
                urls[name].append(url)
    return urls
