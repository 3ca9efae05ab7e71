"""URLs are judged as in training, one by one or in batches, from texts, tables and pictures, and explained exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import segno
import torch
from PIL import Image

from dbbd_cli.data.urls.cleaning import clean_url
from dbbd_cli.data.urls.dataset import UrlDataset
from dbbd_cli.report.prediction import Prediction
from dbbd_cli.services.predict import Predictor, open_predictor, predict
from dbbd_cli.services.train import train
from dbbd_cli.tasks.configs import config_from_mapping

URLS = ["https://www.News.example/a?b=1", "secure-login.win.test/x.exe", "192.0.2.7/admin", "bücher.example/é"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings: dict[str, Any] = {
        "task": "url_classification",
        "run": {"runs_dir": str(tmp_path_factory.mktemp("runs")), "device": "cpu", "precision": "fp32", "plots": False},
        "data": {"sample_per_class": 40},
        "model": {"hash_bits": 10},
        "training": {"epochs": 1, "batch_size": 16},
    }
    return train(config_from_mapping(settings, origin="test")).run


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return open_predictor(run)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Saves a picture of the QR codes of some texts, side by side."""

    def make(name: str, *texts: str) -> Path:
        whole = Image.new("L", (400 * max(1, len(texts)), 400), "white")
        for place, text in enumerate(texts):
            segno.make(text, micro=False).save(str(tmp_path / "code.png"), scale=5, border=4)
            with Image.open(tmp_path / "code.png") as code:
                whole.paste(code.convert("L"), (400 * place + 20, 20))
        (tmp_path / "code.png").unlink(missing_ok=True)
        whole.save(tmp_path / name)
        return tmp_path / name

    return make


def judge(predictor: Predictor, *texts: object) -> list[Prediction]:
    from dbbd_cli.data.inputs import input_of

    return list(predictor.predict(input_of(str(text)) for text in texts))


def test_probabilities_are_those_of_the_network_on_cleaned_urls(run: Path, predictor: Predictor) -> None:
    workload: Any = predictor.workload
    cleaned = [clean_url(url, workload.config.data.urls) for url in URLS]
    dataset = UrlDataset(cleaned, [0] * len(URLS))
    with torch.inference_mode():
        logits = workload.module.network(torch.from_numpy(dataset.codes.copy()))
    results = list(predict(run, URLS))
    assert [list(result.probabilities) for result in results] == [list(workload.manifest.classes)] * len(URLS)
    found = [list(result.probabilities.values()) for result in results]
    assert torch.tensor(found) == pytest.approx(torch.softmax(logits, 1), abs=1e-5)
    assert [result.judged for result in results] == ["news.example/a?b=1", None, None, None]
    assert all(result.status == "judged" and not result.calibrated for result in results)


def test_a_batch_does_not_change_its_members(predictor: Predictor) -> None:
    long = [f"host{number}.example/{'x' * (7 * number % 700)}" for number in range(600)]
    together = judge(predictor, *URLS, *long)
    alone = [judge(predictor, url)[0] for url in (*URLS, *long[:20])]
    assert [result.input for result in together] == [*URLS, *long]
    assert [result.probability for result in together[: len(alone)]] == pytest.approx(
        [result.probability for result in alone], abs=1e-5
    )


def test_a_url_beyond_what_the_network_sees_is_judged_with_a_remark(predictor: Predictor) -> None:
    [result] = judge(predictor, "a.example/" + "x" * 4000)
    assert (result.status, result.note) == ("judged", "only the first 509 of its 4,010 bytes were judged")


@pytest.mark.parametrize(
    ("url", "note"),
    [
        (
            "https://www.аpple.example/login",
            "its host is not ASCII: xn--pple-43d.example",
        ),  # its first letter is Cyrillic
        ("https://a.example/é", ""),
        ("bücher.example/" + "x" * 600, "its host is not ASCII: xn--bcher-kva.example; only the first 509 of its 616"),
    ],
)
def test_a_host_that_is_not_ascii_is_also_shown_as_it_is_looked_up(predictor: Predictor, url: str, note: str) -> None:
    [result] = judge(predictor, url)
    assert (result.status, result.note.startswith(note), bool(result.note)) == ("judged", True, bool(note))


def test_results_come_before_the_stream_ends(predictor: Predictor) -> None:
    from dbbd_cli.data.inputs import Input

    def endless() -> Iterator[Input]:
        while True:
            yield Input("a.example")

    results = predictor.predict(endless())
    assert [next(results).status for _ in range(600)] == ["judged"] * 600


def test_texts_that_are_no_urls_are_skipped_with_the_reason(predictor: Predictor) -> None:
    results = judge(
        predictor, "no-such-file", "photo.png", "WIFI:T:WPA;;", "a\0b", "", "picturs/", "mailto:a@b.example"
    )
    assert [result.status for result in results] == ["skipped"] * 7
    assert results[0].note == "is neither an existing file or folder nor a web address, but plain text"
    assert results[1].note == (
        "is neither an existing file or folder nor a web address, but the name of a file; "
        "if it is a URL, write https:// before it"
    )
    assert results[4].note == "the text is empty"
    assert results[5].note == "there is no such file or folder; if it is a URL, write https:// before it"
    assert results[6].note == "is neither an existing file or folder nor a web address, but an e-mail address"


def test_a_table(predictor: Predictor, tmp_path: Path) -> None:
    table = tmp_path / "urls.csv"
    table.write_bytes(b"url;x\nhttp://a.example;1\n;2\n\xff.example;3\nno dot;4\nb.example;5;6\n")
    results = judge(predictor, table)
    assert [(result.input, result.status) for result in results] == [
        ("http://a.example", "judged"),
        (f"{table} line 3", "skipped"),
        (f"{table} line 4", "skipped"),
        ("no dot", "judged"),  # the column says that it is a URL
        (f"{table} line 6", "skipped"),
    ]
    assert results[1].note == "the URL is empty"
    table.write_text("address\nb.example\n")
    [result] = judge(predictor, table)
    assert (result.status, result.input) == ("skipped", str(table))
    assert "has no column url; its columns are: address" in result.note
    table.write_text("url\n\n")
    [result] = judge(predictor, table)
    assert (result.status, result.note) == ("skipped", "has no rows below the names of its columns")


def test_the_codes_of_pictures(predictor: Predictor, picture: Callable[..., Path]) -> None:
    paths = [
        picture("one.png", "https://www.a.example/x"),
        picture("two.png", "http://b.example/1", "http://c.example/2"),
        picture("wifi.png", "WIFI:T:WPA;S:net;P:secret;;"),
        picture("none.png"),
    ]
    found = judge(predictor, paths[0], "d.example", *paths[1:])
    assert [result.input for result in found[:2]] == [str(paths[0]), "d.example"]
    assert [(result.status, result.text) for result in found] == [
        ("judged", "https://www.a.example/x"),
        ("judged", None),
        ("judged", "http://b.example/1"),
        ("judged", "http://c.example/2"),
        ("not_judged", "WIFI:T:WPA;S:net;P:secret;;"),
        ("skipped", None),
    ]
    assert [result.judged for result in found[:4]] == ["a.example/x", None, "b.example/1", "c.example/2"]
    assert [result.note for result in found[2:4]] == ["code 1 of 2", "code 2 of 2"]
    assert found[4].note == "the code holds no URL, but the settings of a Wi-Fi network"
    assert found[5].note == "no QR code was found in it"
    assert found[0].probability == pytest.approx(judge(predictor, "https://www.a.example/x")[0].probability, abs=1e-5)


def test_a_folder_named_like_a_url(predictor: Predictor, picture: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "example.com"
    (folder / "inner").mkdir(parents=True)
    picture("a.png", "http://a.example").rename(folder / "inner" / "a.png")
    for name in ("Thumbs.db", ".hidden.png", "notes.txt"):
        (folder / name).touch()
    (folder / "raw.nef").touch()
    results = judge(predictor, folder)
    assert [(result.status, result.text or result.note) for result in results] == [
        ("judged", "http://a.example"),
        ("skipped", "1 image in unsupported formats: 1 .nef"),
    ]
    (tmp_path / "empty").mkdir()
    [result] = judge(predictor, tmp_path / "empty")
    assert (result.status, result.note) == ("skipped", "contains no pictures")


def test_other_files_are_skipped(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("notes.txt", "raw.nef"):
        (tmp_path / name).write_text("x")
    text, raw = judge(predictor, tmp_path / "notes.txt", tmp_path / "raw.nef")
    assert text.note == "is neither a picture nor a table (.csv, .tsv or .parquet)"
    assert raw.note == "is a picture in an unsupported format"


@pytest.mark.parametrize("url", [*URLS, "https://a.example", "x" * 700 + ".example", "a.example/" + "b/" * 40])
def test_contributions_add_up_to_the_difference_from_an_empty_url(run: Path, url: str) -> None:
    [result] = predict(run, [url], explain=True)
    explained = result.explanation
    assert explained is not None
    assert explained.target == result.positive_class
    assert len(explained.spans) <= 10
    assert explained.empty + sum(span.contribution for span in explained.spans) == pytest.approx(explained.total)
    assert explained.total == pytest.approx(math.log(result.probability / (1 - result.probability)), abs=1e-4)
    whole = (result.judged or url).encode()
    for span in explained.spans:
        assert whole[span.start : span.end].decode() == span.text
