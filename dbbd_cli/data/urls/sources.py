"""List URLs and their classes: from a table, or synthetic ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dbbd_cli.data.candidates import Candidates, Source, classes_of_table
from dbbd_cli.data.urls.synthetic import synthetic_urls
from dbbd_cli.data.urls.table import read_url_table

URL_READERS: dict[str, Callable[[Path, str, str], tuple[list[tuple[str, str]], list[str]]]] = {}
"""Suffix of a file of URLs to its reader, called like `read_url_table`, which reads all other files."""


def list_urls(path: Path, url_column: str, label_column: str) -> Source:
    """List a CSV file with a URL and a class name in each row; a URL that occurs twice yields two candidates.

    Raises:
        DataError: the file is missing, unreadable or not UTF-8, lacks a column, or has fewer than two classes or too
            many.
    """
    read = URL_READERS.get(path.suffix.lower(), read_url_table)
    samples, problems = read(path, url_column, label_column)
    names = classes_of_table(path, (name for _, name in samples), label_column, "URL", problems)
    label_of = {name: label for label, name in enumerate(names)}
    samples = sorted(samples, key=lambda sample: sample[::-1])
    candidates = Candidates([url for url, _ in samples], [label_of[name] for _, name in samples])
    return Source("urls", names, candidates, (), problems, 0)


def list_synthetic(count_per_class: int, seed: int) -> Source:
    """Generate URLs of the classes benign and malicious."""
    urls = synthetic_urls(count_per_class, seed)
    names = tuple(sorted(urls))
    keys = [url for name in names for url in sorted(urls[name])]
    candidates = Candidates(keys, [label for label, name in enumerate(names) for _ in urls[name]])
    return Source("synthetic", names, candidates, (), [], 0)
