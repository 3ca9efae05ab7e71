"""Compare images in tar shards with the same images in folders: `python tests/benchmarks/image_shards.py FOLDER`.

Writes both to FOLDER unless it exists, runs `dbbd prepare` on each twice, and prints processor seconds and peak memory.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "reliability"))
from program import measure

SIDE = 22
"""Noise of this size makes a PNG of about 570 bytes."""


def write(folder: Path, images: int, shards: int) -> None:
    rng = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / "shards" / f"s-{shard:06}.tar", "w") as tar:
            for number in range(shard * images // shards, (shard + 1) * images // shards):
                label = number % 2
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8) // (1 + label)).save(buffer, "PNG")
                for suffix, content in (("png", buffer.getvalue()), ("cls", b"%d" % label)):
                    info = tarfile.TarInfo(f"{number:08}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                (folder / "files" / str(label) / f"{number:08}.png").write_bytes(buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if not folder.exists():
        for name in ("shards", "files/0", "files/1"):
            (folder / name).mkdir(parents=True)
        write(folder, options.images, options.shards)
    places = {"shards": f"{folder}/shards/s-{{000000..{options.shards - 1:06}}}.tar", "files": f"{folder}/files"}
    for name, path in places.items():
        shutil.rmtree(folder / f"cache-{name}", ignore_errors=True)
        settings = {"path": path, "cache_dir": f"{folder}/cache-{name}", "sample_per_class": "null", "image_size": 32}
        words = [word for key, value in settings.items() for word in ("--set", f"data.{key}={value}")]
        for start in ("first", "second"):
            begin, command = time.monotonic(), ("prepare", "--config", "qr_cnn", *words)
            code, out, processor, megabytes = measure(*command, folder=folder, seconds=3600)
            assert code == 0, out
            text = f"{time.monotonic() - begin:.0f} s, {processor:.1f} s of processor time, {megabytes:.0f} MB"
            print(f"{name}, {start} time: {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
