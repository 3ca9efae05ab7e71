"""Make the picture of `scans.md`: `python docs/make_scan_picture.py`.

Writes synthetic rooms as files, and does with them what the page describes. `images/segmentation.png` is the figure
that `dbbd evaluate` makes, smaller.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from dbbd_cli.data.scenes.synthetic_rooms.generator import ROOM_CLASSES, generate_room
from dbbd_cli.data.scenes.writing import write_ply

IMAGE = Path(__file__).parent / "images" / "segmentation.png"
ROOMS = {"train": 6, "val": 2, "test": 2}
POINTS = 15_000
WIDTH = 1400


def write_rooms(folder: Path) -> None:
    """Write the rooms of each split as PLY files with labels."""
    import numpy as np

    for seed, (split, count) in enumerate(ROOMS.items()):
        (folder / split).mkdir(parents=True)
        for index in range(count):
            room = generate_room(seed, index, POINTS)
            columns = dict(zip("xyz", room.coord.T, strict=True))
            if room.color is not None:
                columns |= zip(("red", "green", "blue"), np.rint(room.color * 255).astype(np.uint8).T, strict=True)
            if room.segment is not None:
                columns["label"] = room.segment.astype(np.int32)
            write_ply(folder / split / f"room{index}.ply", columns)


def main() -> None:
    """Train, evaluate, and keep the figure of a scene."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rooms(folder / "scans")
        names = f"data.class_names=[{','.join(ROOM_CLASSES)}]"
        dbbd = [sys.executable, "-m", "dbbd_cli"]
        train = ["train", "--config", "segment_scans", "--set", f"data.path={folder / 'scans'}", "--set", names]
        subprocess.run([*dbbd, *train, "--epochs", "8", "--runs-dir", str(folder / "runs")], check=True)
        [run] = (folder / "runs").iterdir()
        subprocess.run([*dbbd, "evaluate", str(run)], check=True)
        picture = Image.open(run / "scene_segmentation.png").convert("RGB")
        size = (WIDTH, picture.height * WIDTH // picture.width)
        picture.resize(size, Image.Resampling.LANCZOS).quantize(128).save(IMAGE, optimize=True)


if __name__ == "__main__":
    main()
