"""Data: images from the cache, listing many images, trees and normals of scenes."""

from __future__ import annotations

import tempfile
import time
import zlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

from loop import prepare
from measure import Measured, alternately, median, seconds_of, spread

IMAGES = 192
FILES = 200_000
ROOM_POINTS = 150_000
BATCH = 32


def image_cache(repeat: int) -> Measured:
    """Measure images per second and core from the cache to the network's input, relative to decoding PNG files.

    Both pipelines rotate, change brightness and contrast, and normalize, in one thread.
    """
    import torch
    from torchvision import transforms

    from dbbd_cli.core.progress import Silent
    from dbbd_cli.model.images.catalog import ModelInput
    from dbbd_cli.services.session import build_workload

    torch.set_num_threads(1)
    files = _write_images(Path(tempfile.mkdtemp()))
    settings: dict[str, object] = {
        "data.source": "folder",
        "data.path": str(files[0].parents[1]),
        "data.sample_per_class": None,
        "data.num_workers": 0,
        "run.device": "cpu",
        "training.batch_size": BATCH,
    }
    config, manifest = prepare("qr_cnn", settings)
    task: Any
    task, runtime = build_workload(config, manifest, splits=("train",), pretrained=False, progress=Silent())
    epoch = 0

    def ours() -> float:
        nonlocal epoch
        epoch += 1
        count = 0

        def read() -> None:
            nonlocal count
            for raw_batch in task.loaders["train"].batches(epoch):
                images, _ = task.to_device(raw_batch, runtime.device, train=True)
                count += len(images)

        seconds = seconds_of(read)
        return count / seconds

    theirs_pipeline = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.RandomRotation(config.data.augment.rotation_degrees, fill=255),
            transforms.ColorJitter(brightness=config.data.augment.brightness, contrast=config.data.augment.contrast),
            transforms.ToTensor(),
            transforms.Normalize(ModelInput().mean, ModelInput().std),
        ]
    )

    def theirs() -> float:
        from PIL import Image

        def read() -> None:
            for path in files[:BATCH]:
                with Image.open(path) as image:
                    theirs_pipeline(image.convert("RGB"))

        return BATCH / seconds_of(read)

    own, other = alternately([ours, theirs], repeat)
    return Measured(
        seconds=1 / median(own),
        score=median(own) / median(other),
        spread=spread([one / two for one, two in zip(own, other, strict=True)]),
        reference={"png_images_per_second": median(other)},
        details={"images_per_second": median(own)},
    )


def index_200k(repeat: int) -> Measured:
    """Time listing, hashing and splitting 200,000 different small PNG files as `dbbd train` does, without decoding."""
    from dbbd_cli.data.images import manifest as image_manifest
    from dbbd_cli.data.images.cache import PreparedImages

    root = Path(tempfile.mkdtemp())
    _write_many(root)

    def prepared(refs: list[Any], size: int, cache_dir: Path, progress: object) -> PreparedImages:
        # The pixels would fill 30 GB; `image_cache` measures their cost.
        return PreparedImages(cache_dir / "none", (len(refs), 3, size, size), {})

    def index() -> float:
        settings = {"data.source": "folder", "data.path": str(root), "data.sample_per_class": None}
        return seconds_of(lambda: _index(settings))

    with patch.object(image_manifest, "prepare_images", prepared):
        # Minutes on a slow disk: fewer runs than elsewhere, including the first, which is the one users wait for.
        (seconds,) = alternately([index], min(repeat, 3), warm_up=0)
    return Measured(
        seconds=median(seconds),
        score=median(seconds),
        spread=spread(seconds),
        details={"first_seconds": seconds[0], "files_per_second": FILES / median(seconds)},
    )


def _index(settings: dict[str, object]) -> None:
    _, manifest = prepare("qr_cnn", settings)
    assert len(manifest.samples) == FILES
    manifest.digest()


def tree_150k(repeat: int) -> Measured:
    """Time building the region tree and the normals of a room of 150,000 points."""
    from dbbd_cli.data.scenes.normals import estimate_normals
    from dbbd_cli.data.scenes.synthetic_rooms.generator import generate_room
    from dbbd_cli.data.scenes.trees.builder import build_tree
    from dbbd_cli.tasks.configs import load_config
    from dbbd_cli.tasks.dbbd.config import DbbdConfig

    config = load_config("dbbd_scannet")
    assert isinstance(config, DbbdConfig)
    data = config.data
    coord = generate_room(42, 0, ROOM_POINTS).coord
    processor = time.process_time()
    trees, normals = alternately(
        [
            lambda: seconds_of(
                lambda: build_tree(coord, max_depth=data.max_depth, min_region_points=data.min_region_points)
            ),
            lambda: seconds_of(lambda: estimate_normals(coord, num_neighbors=data.normal_neighbors, num_threads=-1)),
        ],
        repeat,
        warm_up=1,
    )
    processor = (time.process_time() - processor) / (1 + repeat)
    both = [one + other for one, other in zip(trees, normals, strict=True)]
    return Measured(
        seconds=median(both),
        score=median(both),
        spread=spread(both),
        details={"tree_seconds": median(trees), "normal_seconds": median(normals), "processor_seconds": processor},
    )


def _write_images(root: Path) -> list[Path]:
    """Write QR codes of synthetic URLs as PNG files of about 400 x 400 pixels, in two classes."""
    import segno

    from dbbd_cli.data.urls.synthetic import synthetic_urls

    files = []
    for name, urls in synthetic_urls(IMAGES // 2, seed=42).items():
        (root / name).mkdir()
        for number, url in enumerate(sorted(urls)):
            files.append(root / name / f"{number:04d}.png")
            segno.make(url, error="m", micro=False).save(str(files[-1]), scale=10, border=4)
    return files


def _write_many(root: Path) -> None:
    """Write 200,000 PNG files of one small image, each with a different comment."""
    import io

    import segno

    png = io.BytesIO()
    segno.make("https://example.org/a/path/of/some/length", error="m", micro=False).save(png, kind="png", scale=10)
    content = png.getvalue()
    end = content.rindex(b"IEND") - 4
    for label in ("benign", "malicious"):
        (root / label).mkdir()
        for number in range(FILES // 2):
            path = root / label / f"{number:06d}.png"
            path.write_bytes(content[:end] + _comment(f"{label} {number}") + content[end:])


def _comment(text: str) -> bytes:
    """A text chunk of a PNG file."""
    body = b"tEXtComment\0" + text.encode("ascii")
    return (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
