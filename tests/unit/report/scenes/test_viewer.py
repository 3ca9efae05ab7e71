"""The viewer of the HTML report draws a scene in a real browser, and leaves the picture where there is no WebGL."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dbbd_cli.report.page import html_page
from dbbd_cli.report.scenes.figures import scene_features
from dbbd_cli.report.scenes.viewer import scene_cloud, viewer_data
from unit.report.test_page import run_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
CLASSES = ["floor", "</script><b>wall"]
SYNCHRONOUS = "<script>requestAnimationFrame = draw => draw();</script>"
"""Frames come at no certain time in a browser without a window."""
DRIVER = """
<script>
const canvas = document.querySelector("canvas");
function after(action) {  // what is drawn, read before the browser shows it and clears the canvas
  action();
  const copy = document.createElement("canvas");
  Object.assign(copy, {width: canvas.width, height: canvas.height});
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const pixels = context.getImageData(0, 0, copy.width, copy.height).data;
  let drawn = 0, sum = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    if (pixels[i + 3]) { drawn += 1; sum += pixels[i] * 3 + pixels[i + 1] * 5 + pixels[i + 2] * 7 + i % 1009; }
  }
  return [drawn / (pixels.length / 4), sum];
}
const key = name => () => canvas.dispatchEvent(new KeyboardEvent("keydown", {key: name, cancelable: true}));
const pointer = (kind, id, x, y) => canvas.dispatchEvent(
  new PointerEvent(kind, {pointerId: id, clientX: x, clientY: y, buttons: 1, pointerType: "touch"}));
canvas.setPointerCapture = () => {};  // there is no finger to capture
const found = {};
for (const button of document.querySelectorAll("[role=tab]")) {
  found[button.textContent] = after(() => button.click());
  found[button.textContent].push(document.querySelector(".legend").textContent);
}
found.turned = after(key("ArrowLeft"));
found.closer = after(() => canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -60, cancelable: true})));
found.home = after(key("0"));
found.touched = after(() => { pointer("pointerdown", 1, 50, 50); pointer("pointermove", 1, 80, 60); });
found.pinched = after(() => { pointer("pointerdown", 2, 100, 60); pointer("pointermove", 2, 110, 60); });
const cut = document.querySelector("input");
found.cut = after(() => { cut.value = 0.05; cut.oninput(); });
document.body.append(Object.assign(document.createElement("pre"), {textContent: JSON.stringify(found)}));
</script>"""


def room(count: int = 5000) -> dict[str, np.ndarray]:
    """Floor and walls of a room with labels and predictions."""
    rng = np.random.default_rng(0)
    coord = rng.random((count, 3)) * [6, 4, 2.5]
    walls = rng.random(count) < 0.5
    coord[walls, 0] = np.rint(coord[walls, 0] / 6) * 6
    coord[~walls, 2] = 0
    segment = walls.astype(np.int32)
    prediction = np.where(rng.random(count) < 0.25, 1 - segment, segment).astype(np.int32)
    segment[:100] = -1
    color = (255 * rng.random((count, 3))).astype(np.uint8)
    return {
        "coord": coord.astype(np.float32), "color": color, "region": np.zeros((1, count), np.int32),
        "segment": segment, "prediction": prediction,
    }  # fmt: skip


def test_layers() -> None:
    scene = room()
    cloud = scene_cloud(scene, "Scene a in 3D", CLASSES)
    assert [layer.name for layer in cloud.layers] == ["Labels", "Prediction", "Error", "Features", "Height"]
    labels, _, errors, features, height = cloud.layers
    assert [name for name, _ in labels.legend] == [*CLASSES, "unlabeled"]
    known = scene["segment"] >= 0
    share = (scene["segment"] != scene["prediction"])[known].mean()
    assert errors.legend[1][0] == f"wrong: {share:.1%} of the labeled points"
    wrong = (errors.color == [0xD5, 0x5E, 0x00]).all(axis=1)
    assert np.array_equal(wrong, known & (scene["segment"] != scene["prediction"]))
    assert np.array_equal(features.color, scene["color"])
    assert [name for name, _ in height.legend] == ["0.0", "2.5"]
    del scene["segment"]
    assert [layer.name for layer in scene_cloud(scene, "", []).layers] == ["Prediction", "Features", "Height"]


def test_large_scenes_are_thinned_and_nothing_ends_the_script_early() -> None:
    text = viewer_data(scene_cloud(room(60_000), "</script>", CLASSES))
    assert "<" not in text
    data = json.loads(text)
    assert data["count"] == 50_000
    assert len(data["place"]) == 4 * -(-50_000 * 8 // 3)
    assert data["layers"][0]["legend"][1][0] == CLASSES[1]
    assert len(text) < 2_500_000


@pytest.fixture
def page(tmp_path: Path) -> Path:
    scene = room()
    figures = {"scene_features": scene_features(scene, [], "", CLASSES)}
    clouds = {"scene_features": scene_cloud(scene, "Scene a in 3D", CLASSES)}
    path = tmp_path / "report.html"
    path.write_text(html_page([run_of("a run")], ("loss",), [[]], figures, clouds), encoding="utf-8")
    return path


def browse(page: Path, *options: str, size: str = "1000,900") -> tuple[str, list[str]]:
    """The page after its scripts have run, and what they wrote to the console."""
    profile = page.with_name("profile")
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu-sandbox", "--enable-logging=stderr"),
        *(f"--user-data-dir={profile}", f"--window-size={size}", *options),
        *("--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@needs_browser
@pytest.mark.parametrize("size", ["1000,900", "400,800"])
def test_the_scene_is_drawn_and_follows_mouse_keys_and_fingers(page: Path, size: str) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"; script-src '[^']+'", "; script-src 'unsafe-inline'", text)
    page.write_text(
        text.replace("<main>", SYNCHRONOUS + "<main>").replace("</body>", DRIVER + "</body>"), encoding="utf-8"
    )
    dom, console = browse(page, *WEBGL, size=size)
    assert not console
    result = re.search(r"<pre>(.*)</pre>", dom)
    assert result, "the script of the test did not end"
    found = json.loads(result[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert all(found[name][0] > 0.03 for name in ("Labels", "Prediction", "Error", "Features", "Height", "turned"))
    views = ("Labels", "Prediction", "Error", "Features", "Height", "turned", "closer", "touched", "pinched", "cut")
    assert len({found[name][1] for name in views}) == len(views)
    assert found["home"][:2] == found["Height"][:2]
    assert found["closer"][0] > found["turned"][0]
    assert found["cut"][0] < found["pinched"][0]
    assert found["Labels"][2] == f"{CLASSES[0]}{CLASSES[1]}unlabeled"


@needs_browser
@pytest.mark.parametrize("options", [WEBGL, ("--disable-3d-apis",)], ids=["webgl", "no webgl"])
def test_the_page_as_it_is(page: Path, options: tuple[str, ...]) -> None:
    dom, console = browse(page, *options)
    assert not console
    [figure] = re.findall(r'<figure class="([^"]*)" aria-label="scene features"', dom, re.IGNORECASE)
    assert ("live" in figure.split()) == ("<canvas" in dom) == (options == WEBGL)
    assert "<svg" in dom
    assert "<b>" not in dom
