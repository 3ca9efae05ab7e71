"""The workload of URL classification: cleaned URLs in batches, a network fitted to the training split, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dbbd_cli.core.errors import CheckpointError, ConfigError, DataError
from dbbd_cli.core.progress import Silent
from dbbd_cli.data.urls.cleaning import clean_url
from dbbd_cli.data.urls.encoding import encode_url
from dbbd_cli.tasks.url_classification.config import UrlClassificationConfig
from dbbd_cli.tasks.url_classification.task import UrlClassification
from dbbd_cli.tasks.url_classification.workload import UrlWorkload


def config(*, model: dict[str, Any] | None = None, **data: Any) -> UrlClassificationConfig:
    return UrlClassificationConfig.model_validate(
        {
            "task": "url_classification",
            "data": {"sample_per_class": 40, **data},
            "model": {"hash_bits": 10, **(model or {})},
            "training": {"batch_size": 16},
        }
    )


def build(settings: UrlClassificationConfig, *, pretrained: bool = True) -> UrlWorkload:
    task = UrlClassification()
    manifest = task.make_manifest(settings, Silent())
    return task.build(
        settings, manifest, splits=["train", "val"], pretrained=pretrained, pin_memory=False, progress=Silent()
    )


def test_batches_hold_the_cleaned_urls_and_their_classes() -> None:
    workload = build(config())
    samples, count = workload.manifest.of("train"), 0
    for batch in workload.loaders["train"].batches(epoch=1):
        codes, labels = workload.to_device(batch, torch.device("cpu"), train=True)
        for row, label, index in zip(codes, labels, batch.samples, strict=True):
            url = clean_url(samples[index].key, workload.config.data.urls)
            assert bytes(row.tolist()).rstrip(b"\0") == encode_url(url)
            assert int(label) == samples[index].label
            count += 1
        assert workload.names(batch, "train") == [samples[index].key for index in batch.samples]
    assert count == len(samples)


def test_no_host_is_in_two_splits() -> None:
    workload = build(config())
    hosts = [
        {clean_url(sample.key, workload.config.data.urls).partition("/")[0] for sample in workload.manifest.of(split)}
        for split in ("train", "val")
    ]
    assert hosts[0].isdisjoint(hosts[1])


def test_the_network_is_fitted_to_the_training_urls_unless_a_checkpoint_replaces_it() -> None:
    assert build(config()).module.network.token_view.idf.unique().numel() > 2
    assert build(config(), pretrained=False).module.network.token_view.idf.unique().tolist() == [1.0]


def test_weights_of_another_run_replace_all_of_the_network(tmp_path: Path) -> None:
    first = build(config())
    torch.save({"module": first.module.state_dict()}, tmp_path / "weights.pth")
    second = build(config(model={"weights": str(tmp_path / "weights.pth")}, sample_per_class=20))
    for name, value in second.module.network.state_dict().items():
        assert torch.equal(value, first.module.network.state_dict()[name]), name


def test_weights_that_do_not_match_are_refused(tmp_path: Path) -> None:
    torch.save({"module": build(config()).module.state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="does not match the network"):
        build(config(model={"weights": str(tmp_path / "weights.pth"), "hash_bits": 11}))


def test_the_positive_class_must_exist() -> None:
    assert build(config()).positive_class == "malicious"
    assert build(config(positive_class="benign")).positive_class == "benign"
    with pytest.raises(ConfigError, match="there is no class 'evil'"):
        build(config(positive_class="evil"))


def test_unusable_rows_end_the_run_or_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "urls.csv"
    rows = [f"{kind}{index}.example/x,{kind}\n" for kind in ("good", "bad") for index in range(9)]
    path.write_text("url,label\n" + "".join(rows) + ",bad\n")
    with pytest.raises(DataError):
        build(config(path=str(path), sample_per_class=None))
    manifest = build(config(path=str(path), sample_per_class=None, on_error="skip")).manifest
    assert (len(manifest.samples), len(manifest.skipped)) == (18, 1)
