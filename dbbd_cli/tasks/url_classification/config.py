"""The settings of URL classification."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dbbd_cli.config.sections import section
from dbbd_cli.data.urls.cleaning import UrlCleaningForText
from dbbd_cli.tasks.classifier_config import (
    ClassifierConfig,
    ClassifierDataConfig,
    ClassifierModelConfig,
    ClassifierSplitConfig,
)

SAMPLE_UNIT = "URLs"


class UrlSplitConfig(ClassifierSplitConfig):
    """How samples are divided, class by class."""

    group: Literal["none", "host"] = Field(
        "host", description="host: keep all URLs of a host in the same split, so that hosts cannot be memorized"
    )


class UrlDataConfig(ClassifierDataConfig):
    """Where the URLs come from."""

    source: Literal["folder", "classes", "table", "urls", "synthetic"] = Field(
        "synthetic",
        description="urls: a CSV or Parquet file of URL and label; folder: pictures of QR codes, one subfolder per "
        "class; classes: a folder of such pictures for each class; table: a file of path and label of such pictures; "
        "synthetic: generated URLs; "
        "if omitted, path implies folder or, for a file, urls, and classes implies classes",
    )
    split: UrlSplitConfig = section("shares of the splits")
    urls: UrlCleaningForText = section("how URLs are changed before they are classified")
    on_error: Literal["fail", "skip"] = Field(
        "fail",
        description="whether an unusable row, or a picture without exactly one code that holds a URL, ends the run "
        "(fail) or is left out, counted and listed in splits.json (skip)",
    )


class UrlModelConfig(ClassifierModelConfig):
    """The network."""

    name: Literal["url_net"] = Field("url_net", description="the network")
    hash_bits: Annotated[int, Field(ge=10, le=20)] = Field(
        17, description="bits of the hash of an n-gram or a word; the network has 2^bits rows of weights for them"
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.3, description="dropout probability")


class UrlClassificationConfig(ClassifierConfig):
    """A run that trains a classifier of URLs."""

    task: Literal["url_classification"] = Field(description="kind of training")
    data: UrlDataConfig = section("the URLs")
    model: UrlModelConfig = section("the network")
