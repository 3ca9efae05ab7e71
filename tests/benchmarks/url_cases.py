"""URLs: training on a table of them, judging them, and reading codes."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from loop import prepare
from machine import gemm
from measure import Measured, alternately, median, seconds_of, spread

URLS = 10_000
"""In the table, 70% of them for training."""
JUDGED = 2_000
CODES = 256


def train(repeat: int) -> Measured:
    """Measure `dbbd train` with a table of 10,000 URLs, from its settings to the result; once, since it takes long."""
    import torch

    from dbbd_cli.config.load import Override
    from dbbd_cli.services.train import train as train_run
    from dbbd_cli.tasks.configs import load_config

    folder = Path(tempfile.mkdtemp())
    with (folder / "urls.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["url", "label"])
        table.writerows((url, label) for label, urls in _urls(URLS).items() for url in urls)
    settings = {"data.path": str(folder / "urls.csv"), "run.runs_dir": str(folder / "runs"), "run.device": "cpu"}
    config = load_config("qr_url", [Override(key, value, "benchmark") for key, value in settings.items()])
    product = gemm(torch.float32)
    rates = [product() for _ in range(repeat)]
    seconds = seconds_of(lambda: train_run(config))
    rates += [product() for _ in range(repeat)]
    return Measured(
        seconds=seconds, score=seconds * median(rates), spread=spread(rates), reference={"gemm_fp32": median(rates)}
    )


def predict(repeat: int) -> Measured:
    """Measure how long `dbbd predict` takes for a URL once the network is loaded, without writing the result."""
    import torch

    from dbbd_cli.core.progress import Silent
    from dbbd_cli.data.inputs import Input
    from dbbd_cli.engine.inference import place
    from dbbd_cli.report.prediction import Calibration
    from dbbd_cli.services.predict import Predictor
    from dbbd_cli.services.session import build_workload
    from dbbd_cli.tasks.registry import get_task

    config, manifest = prepare("qr_url", {"run.device": "cpu", "data.sample_per_class": 300})
    workload, runtime = build_workload(config, manifest, splits=("train",), pretrained=True, progress=Silent())
    place(workload.module, runtime).eval()
    predictor = Predictor(get_task(config.task), workload, runtime, Calibration(), explain=False, progress=Silent())
    inputs = [Input(url) for urls in _urls(JUDGED).values() for url in urls]

    def judge() -> float:
        return seconds_of(lambda: list(predictor.predict(inputs)))

    seconds, rates = alternately([judge, gemm(torch.float32)], repeat)
    scores = [1000 * value / len(inputs) * rate for value, rate in zip(seconds, rates, strict=True)]
    return Measured(
        seconds=median(seconds) / len(inputs),
        score=median(scores),
        spread=spread(scores),
        reference={"gemm_fp32": median(rates)},
    )


def codes(repeat: int) -> Measured:
    """Measure how long reading the code of a picture takes, in worker processes, relative to ZXing alone in one thread.

    Starting the processes is included.
    """
    import numpy as np
    import zxingcpp
    from PIL import Image

    from dbbd_cli.data.images.codes import read_all_codes
    from dbbd_cli.data.images.qr_code import render_modules
    from dbbd_cli.data.images.qr_reader import Picture

    folder = Path(tempfile.mkdtemp())
    urls = [url for urls in _urls(CODES).values() for url in urls]
    paths = [folder / f"{number}.png" for number in range(len(urls))]
    for url, path in zip(urls, paths, strict=True):
        Image.fromarray(render_modules(url, 4)).save(path)
    pictures = [np.asarray(Image.open(path).convert("L")) for path in paths]

    def ours() -> float:
        return seconds_of(lambda: list(read_all_codes([Picture(str(path)) for path in paths])))

    def theirs() -> float:
        formats = zxingcpp.BarcodeFormat.QRCode
        return seconds_of(lambda: [zxingcpp.read_barcodes(picture, formats=formats) for picture in pictures])

    seconds, bare = alternately([ours, theirs], repeat)
    ratios = [own / other for own, other in zip(seconds, bare, strict=True)]
    return Measured(
        seconds=median(seconds) / len(paths),
        score=median(seconds) / median(bare),
        spread=spread(ratios),
        reference={"zxing_seconds": median(bare) / len(paths)},
    )


def _urls(count: int) -> dict[str, list[str]]:
    from dbbd_cli.data.urls.synthetic import synthetic_urls

    return synthetic_urls(count // 2, 1)
