"""Judge URLs, given as text, in tables, or as the codes in pictures. No URL is ever fetched.

B = URLs, L = bytes, S = spans of a URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from dbbd_cli.core.errors import DataError
from dbbd_cli.core.progress import Progress
from dbbd_cli.core.text import counted
from dbbd_cli.data.images.codes import CodesRead, read_all_codes
from dbbd_cli.data.images.formats import begins_like_image, is_image_name, is_unread_name, suffix_of
from dbbd_cli.data.images.qr_reader import Picture
from dbbd_cli.data.inputs import MAX_BYTES, Input
from dbbd_cli.data.table import PARQUET
from dbbd_cli.data.urls.cleaning import ascii_host, clean_url, host_of
from dbbd_cli.data.urls.encoding import MAX_BYTES as MAX_ENCODED_BYTES
from dbbd_cli.data.urls.encoding import encode_url, padded
from dbbd_cli.data.urls.kinds import other_kind, unwrapped
from dbbd_cli.data.urls.spans import encode_spans, spans_of
from dbbd_cli.data.urls.table import iterate_urls
from dbbd_cli.engine.runtime import Runtime
from dbbd_cli.model.calibration import calibrated
from dbbd_cli.model.urls.explain import explain
from dbbd_cli.report.prediction import Calibration, Explanation, Prediction, SpanContribution
from dbbd_cli.tasks.prediction import pictures_in, probabilities, skipped, unsupported
from dbbd_cli.tasks.url_classification.workload import UrlWorkload

_ITEMS_AT_ONCE = 512
"""URLs that are judged together, or pictures whose codes are read together."""
_EXPLAINED_AT_ONCE = 4
_BYTES_AT_ONCE = 16_384
"""Bytes in a forward pass, padding included, which bounds its memory."""
_WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, MAX_ENCODED_BYTES)
_TABLES = (".csv", ".tsv", PARQUET)
_MARKS = 3
_OR_A_URL = "; if it is a URL, write https:// before it"


@dataclass(frozen=True)
class _Url:
    """A URL to be judged: the input that it comes from, and a remark."""

    name: str
    url: str
    note: str = ""


@dataclass(frozen=True)
class _Picture:
    """A picture whose codes are to be judged."""

    name: str
    path: Path


@dataclass(frozen=True)
class UrlPredictor:
    """Judges URLs with a trained network.

    Attributes:
        workload: the network, on the device.
        runtime: device and precision.
        calibration: temperature, biases and threshold.
        explained: whether to explain each verdict.
        progress: receives messages.
    """

    workload: UrlWorkload
    runtime: Runtime
    calibration: Calibration
    explained: bool
    progress: Progress

    def predict(self, inputs: Iterable[Input]) -> Iterator[Prediction]:
        """Judge inputs in batches; the results are in order."""
        size = _EXPLAINED_AT_ONCE if self.explained else _ITEMS_AT_ONCE
        found = (item for one in inputs for item in self._items(one))
        while batch := list(islice(found, size)):
            items = _with_codes_read(batch)
            judged = iter(self._judge([item for item in items if isinstance(item, _Url)]))
            yield from (next(judged) if isinstance(item, _Url) else item for item in items)

    def _items(self, given: Input) -> Iterator[_Url | _Picture | Prediction]:
        if given.problem:
            yield skipped(given.name, given.problem)
        elif given.is_missing:
            yield skipped(given.name, f"there is no such file or folder{_OR_A_URL}")
        elif given.path is None:
            kind = other_kind(given.name)
            may_be_url = "." in given.name and ("plain text" in kind or kind == "the name of a file")
            reason = f"is neither an existing file or folder nor a web address, but {kind}{_OR_A_URL * may_be_url}"
            yield skipped(given.name, reason) if kind else _Url(given.name, given.name)
        elif given.path.is_dir():
            for found in pictures_in(given.path, self.progress):
                yield found if isinstance(found, Prediction) else _Picture(str(found), found)
        elif is_image_name(given.path.name) or begins_like_image(str(given.path)):
            yield _Picture(given.name, given.path)
        elif suffix_of(given.path.name) in _TABLES:
            yield from self._in_table(given.name, given.path)
        elif is_unread_name(given.path.name):
            yield unsupported(given.name)
        else:
            yield skipped(given.name, "is neither a picture nor a table (.csv, .tsv or .parquet)")

    def _in_table(self, name: str, path: Path) -> Iterator[_Url | Prediction]:
        is_empty = True
        try:
            for where, url, problem in iterate_urls(path, self.workload.config.data.url_column):
                is_empty = False
                yield skipped(f"{name} {where}", problem) if problem else _Url(url, url)
            if is_empty:
                yield skipped(name, "has no rows below the names of its columns")
        except DataError as error:
            yield skipped(name, f"{error.message}; {error.hint}" if error.hint else error.message)

    def _judge(self, items: list[_Url]) -> list[Prediction]:
        cleaned = [clean_url(item.url, self.workload.config.data.urls) for item in items]
        rows = [encode_url(url) for url in cleaned]
        logits = torch.empty(len(rows), len(self.workload.manifest.classes))
        for places in _of_similar_length([len(row) for row in rows]):
            logits[places] = self._logits([rows[place] for place in places])
        shares = probabilities(logits, self.workload.manifest.classes, self.calibration)
        positive = self.workload.positive_class
        return [
            Prediction(
                item.name,
                "judged",
                note="; ".join(filter(None, (item.note, _unicode_host(item.url), _cut(url)))),
                text=None if item.url == item.name else item.url,
                judged=None if url == item.url else url,
                probabilities=share,
                positive_class=positive,
                threshold=None if positive is None else self.calibration.threshold,
                calibrated=self.calibration.fitted,
                explanation=self._explain(url, positive or max(share, key=share.__getitem__))
                if self.explained
                else None,
            )
            for item, url, share in zip(items, cleaned, shares, strict=True)
        ]

    def _logits(self, rows: list[bytes]) -> torch.Tensor:
        """Logits `(B, K)` of encoded URLs, on the CPU."""
        # A few sizes only: PyTorch's convolutions keep memory for each size that they have seen.
        size = 1 << (len(rows) - 1).bit_length()
        width = next(width for width in _WIDTHS if width >= max(map(len, rows)))
        codes = torch.zeros(size, width, dtype=torch.uint8)
        found = torch.from_numpy(padded(rows))
        codes[: len(rows), : found.shape[1]] = found
        codes[len(rows) :] = codes[0]
        with torch.inference_mode(), self.runtime.autocast():
            return self.workload.module.network(codes.to(self.runtime.device))[: len(rows)].float().cpu()

    def _explain(self, url: str, target: str) -> Explanation:
        spans = spans_of(url)
        label = self.workload.manifest.classes.index(target)
        others = [place for place in range(len(self.workload.manifest.classes)) if place != label]

        def log_odds(present: torch.Tensor) -> torch.Tensor:
            logits = self._logits([encode_spans(spans, row) for row in present.tolist()])
            logits = calibrated(logits, self.calibration.temperature, self.calibration.bias)
            return logits[:, label] - logits[:, others].logsumexp(1)

        contributions, empty, total = explain(log_odds, len(spans))
        found, start = [], 0
        for span, contribution in zip(spans, contributions.tolist(), strict=True):
            end = start + len(span.content)
            found.append(SpanContribution(start, end, span.part, span.content.decode("utf-8", "replace"), contribution))
            start = end
        return Explanation(target, empty, total, tuple(found))


def _of_similar_length(lengths: list[int]) -> Iterator[list[int]]:
    """Group the places of URLs into batches, the shortest first, since all are padded to the longest of a batch."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    start = 0
    while start < len(order):
        size = 1
        while start + size < len(order):
            longest = lengths[order[min(start + 2 * size, len(order)) - 1]]
            if 2 * size * longest > _BYTES_AT_ONCE:
                break
            size *= 2
        yield order[start : start + size]
        start += size


def _with_codes_read(items: list[_Url | _Picture | Prediction]) -> list[_Url | Prediction]:
    """Replace each picture by what its codes hold."""
    pictures = [item for item in items if isinstance(item, _Picture)]
    codes = dict(read_all_codes([Picture(str(picture.path)) for picture in pictures])) if pictures else {}
    found: list[_Url | Prediction] = []
    read = iter(range(len(pictures)))
    for item in items:
        found += _in_codes(item.name, codes[next(read)]) if isinstance(item, _Picture) else [item]
    return found


def _in_codes(name: str, read: CodesRead) -> Iterator[_Url | Prediction]:
    """The URL of each code in a picture, or what the picture or the code contains instead."""
    if not read.texts:
        yield skipped(name, read.problem)
    for number, text in enumerate(read.texts, start=1):
        which = f"code {number} of {len(read.texts)}" if len(read.texts) > 1 else ""
        url = unwrapped(text)
        size = len(url.encode("utf-8", "surrogatepass"))
        if kind := "a text that is too long" if size > MAX_BYTES else other_kind(url):
            note = "; ".join(filter(None, (f"{which or 'the code'} holds no URL, but {kind}", read.problem)))
            yield Prediction(name, "not_judged", note=note, text=text[:MAX_BYTES])
        else:
            yield _Url(name, url, "; ".join(part for part in (which, read.problem) if part))


def _unicode_host(url: str) -> str:
    """A remark about a host that may look like another one."""
    if url.isascii() or host_of(url).isascii() or not (name := ascii_host(url)):
        return ""
    return f"its host is not ASCII: {name}"


def _cut(url: str) -> str:
    """A remark about a URL that is longer than what the network sees."""
    limit = MAX_ENCODED_BYTES - _MARKS
    size = len(url.encode("utf-8", "replace"))
    return f"only the first {limit} of its {counted(size, 'byte')} were judged" if size > limit else ""
