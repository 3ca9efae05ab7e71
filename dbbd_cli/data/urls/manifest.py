"""Make a manifest from URLs."""

from __future__ import annotations

from collections.abc import Sequence

from dbbd_cli.core.progress import Progress
from dbbd_cli.data.candidates import OnError, Source, draw, handle_problems, report_duplicates
from dbbd_cli.data.manifest import Manifest, Sample
from dbbd_cli.data.splitting import assign_splits
from dbbd_cli.data.urls.cleaning import UrlCleaning, clean_url, host_of, url_sha256


def make_manifest(
    source: Source,
    *,
    cleaning: UrlCleaning,
    sample_per_class: int | None,
    report_limit: bool,
    shares: Sequence[float],
    group_by_host: bool,
    on_error: OnError,
    seed: int,
    progress: Progress,
) -> Manifest:
    """Draw the samples and divide them into splits.

    URLs that are the same once they are cleaned go into the same split, whatever their classes; so do URLs of a host if
    requested.

    Args:
        source: the classes and possible samples.
        cleaning: how URLs are changed before they are classified.
        sample_per_class: maximum number of samples of a class; None for all.
        report_limit: whether to report classes that have fewer.
        shares: shares of the splits train, val and test.
        group_by_host: whether URLs of the same host go into the same split.
        on_error: fail: unusable rows end the run; skip: they are left out.
        seed: seed of the draw.
        progress: receives messages.

    Raises:
        DataError: rows are unusable and `on_error` is `fail`, or a class has too few.
    """
    candidates = draw(source, sample_per_class, report_limit=report_limit, unit="URL", seed=seed, progress=progress)
    handle_problems(source.problems, on_error, "URL", progress)
    keys, labels = [c.key for c in candidates], [c.label for c in candidates]
    hashes = [url_sha256(clean_url(key, cleaning)) for key in keys]
    report_duplicates(source.classes, hashes, candidates, "URL", progress)
    groups = [host_of(key) for key in keys] if group_by_host else hashes
    splits = assign_splits(keys, labels, groups, source.classes, shares, seed)
    samples = tuple(map(Sample, keys, labels, hashes, splits))
    return Manifest(source.kind, source.classes, tuple(map(str, source.roots)), samples, tuple(source.problems))
