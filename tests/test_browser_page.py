"""The page that runs a .tflite in the browser: preprocessing in every bit, and the same answer as Python's runtime."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from edge_stra.apps.smoothing import GAP_S, TAU_S, Smoothed, smooth
from numpy.typing import NDArray

from edge_stra.preprocess import read_rgb, resize_exact, softmax, to_input
from edge_stra.runtime import load_predictor
from edge_stra.shipped import shipped_artifact
from edge_stra.spec import InputSpec

if TYPE_CHECKING:
    from edge_stra.export import Exported

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "scripts" / "browser_page"
CHROMIUM = Path(os.environ.get("EDGE_STRA_CHROMIUM", "/usr/bin/chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SAID = ("INFO:", "WARNING:")
CAMERA = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
LOGIT_TOLERANCE = 1e-5  # measured: int8 0, fp32 6e-7 (docs/browser.md)
PROBABILITY_TOLERANCE = 1e-6  # measured: int8 0, but for softmax in float64 there and float32 here
SIZES_HW = ((88, 88), (88, 89), (89, 88), (87, 87), (176, 176), (175, 177), (177, 353), (346, 346), (1, 1), (2, 300),
            (300, 2), (44, 44), (480, 640), (90, 1000), (72, 120), (98, 11), (210, 59))  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed, with which the page is bundled"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}; set EDGE_STRA_CHROMIUM"),
]


def build(out: Path, *artifact: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(SCRIPT), str(out), *map(str, artifact)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def int8() -> Path:
    """The expression model that comes with the package, which the page is built with by default."""
    path = shipped_artifact("mobilenetv2_stra.fer")
    assert path is not None
    return path


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "built"
    done = build(out)
    assert done.returncode == 0, done.stderr
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(page_folder: Path) -> Iterator[str]:
    """The address of the built page."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(page_folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def write_y4m(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Frames, uint8 [H, W, 3] with even sides, as the raw video that Chromium's fake webcam plays in a loop."""
    height, width = frames[0].shape[:2]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())


@pytest.fixture(scope="module")
def webcam(shared_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A webcam in front of which a face stands, in the middle of 640x480, and trembles a little."""
    face = read_rgb(shared_file("media/astronaut.png"))[20:260, 100:340]  # (240, 240, 3)
    large = cv2.resize(face, (360, 360), interpolation=cv2.INTER_CUBIC)
    frames = []
    for shift in (0, 1, 2, 1):
        frame = np.full((480, 640, 3), 90, np.uint8)
        frame[60 : 60 + 360, 140 + shift : 140 + shift + 360] = large
        frames.append(frame)
    path = tmp_path_factory.mktemp("webcam") / "face.y4m"
    write_y4m(path, frames)
    return path


@pytest.fixture(scope="module")
def chromium(webcam: Path) -> Iterator[Any]:
    with playwright.sync_playwright() as tool:
        flags = [*FLAGS, *CAMERA, f"--use-file-for-fake-video-capture={webcam}"]
        browser = tool.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, served: str) -> Iterator[Any]:
    """The page with its insides shown, its model loaded; checked at the end for errors and requests elsewhere."""
    context = chromium.new_context(permissions=["camera"], viewport={"width": 1000, "height": 760})
    opened = context.new_page()
    complaints: list[str] = []
    strangers: list[str] = []
    # the runtime writes what it says to its standard error, which browsers show as errors
    opened.on("console", lambda m: m.type == "error" and not m.text.startswith(SAID) and complaints.append(m.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith((served, "blob:")) else strangers.append(r.url))
    opened.goto(served + "?debug")
    until(opened, "!document.getElementById('start').disabled")
    yield opened
    context.close()
    assert complaints == [] and strangers == []


def until(page: Any, expression: str) -> None:
    """Waits for an expression; the page's policy forbids playwright's own way of waiting."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came: {expression}; the page says: {page.locator('#status').inner_text()}")


UNPACK = "const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));"
PACK = "const pack = (a) => { const b = new Uint8Array(a.buffer, a.byteOffset, a.byteLength); let s = ''; "
PACK += "for (const v of b) s += String.fromCharCode(v); return btoa(s); };"


def bytes_of(text: str) -> bytes:
    return base64.b64decode(text)


def as_picture(rgb_u8: NDArray[np.uint8]) -> list[Any]:
    return [rgb_u8.shape[1], rgb_u8.shape[0], base64.b64encode(rgb_u8.tobytes()).decode()]


def pictures() -> dict[str, NDArray[np.uint8]]:
    """Noise shows rounding, steps show the places of the taps."""
    random = np.random.default_rng(0)
    noise = {f"noise {h}x{w}": random.integers(0, 256, (h, w, 3), np.uint8) for h, w in SIZES_HW}
    y, x = np.mgrid[:211, :307]
    steps = np.stack([255 * ((x + y) % 2), 255 * (x // 7 % 2), 255 * (y // 5 % 2)], 2).astype(np.uint8)
    every = np.stack([np.arange(256).repeat(3).reshape(24, 32)] * 3, 2).astype(np.uint8)  # each grey value
    return noise | {"steps": steps, "every grey": every}


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("size_hw", [(88, 88), (512, 24), (31, 57)], ids=str)
def test_preprocessing_is_the_same_in_every_bit(page: Any, color: str, size_hw: tuple[int, int]) -> None:
    """At 512 rows weights fall on halves, which go to the even neighbour; 72 and 98 show OpenCV's two inversions."""
    spec = InputSpec(size_hw, color)
    script = "([[width, height, data], input]) => {" + UNPACK + PACK
    script += "const p = {width, height, channels: 3, bytes}, e = window.edgeStra;"
    script += "return [pack(e.prepared(p, input).bytes), pack(e.tensorOf(p, input))] }"
    told = {"size_hw": size_hw, "color": color, "mean_rgb": spec.mean_rgb, "std_rgb": spec.std_rgb}
    wrong = []
    for name, rgb_u8 in pictures().items():
        ready, tensor = (bytes_of(text) for text in page.evaluate(script, [as_picture(rgb_u8), told]))
        seen = cv2.cvtColor(rgb_u8, cv2.COLOR_RGB2GRAY) if color == "grey" else rgb_u8
        if ready != resize_exact(seen, size_hw).tobytes():  # type: ignore[arg-type]
            wrong.append(f"{name}: bytes")
        elif tensor != to_input(rgb_u8, spec).tobytes():
            wrong.append(f"{name}: tensor")
    assert wrong == []


def test_softmax_and_smoothing_are_the_same(page: Any) -> None:
    random = np.random.default_rng(1)
    state: Smoothed | None = None
    theirs: Any = None
    time_s = 5.0
    for passed_s in (0.0, 0.03, 0.2, 0.0, 0.9, 1.5, 0.04):
        time_s += passed_s
        logits = random.normal(0, 3, 7).astype(np.float32)
        given = page.evaluate("logits => window.edgeStra.softmax(logits)", logits.tolist())
        assert np.abs(np.array(given) - softmax(logits)).max() < 1e-6  # float32's exp in numpy, float64's here
        state = smooth(state, np.array(given), time_s)
        script = "([last, p, t, s]) => window.edgeStra.smooth(last, p, t, s)"
        theirs = page.evaluate(script, [theirs, given, time_s, {"tau_s": TAU_S, "gap_s": GAP_S}])
        assert np.abs(np.array(theirs["probabilities"]) - state.probabilities).max() < 1e-12


@pytest.mark.parametrize("name", ["noise 88x88", "noise 480x640", "steps"])
def test_the_model_answers_as_in_python(page: Any, int8: Path, name: str) -> None:
    predictor = load_predictor(int8)
    rgb_u8 = pictures()[name]
    ours = predictor(to_input(rgb_u8, predictor.spec.input))[0]
    script = "async ([width, height, data]) => {" + UNPACK
    script += "return window.edgeStra.run({width, height, channels: 3, bytes}) }"
    theirs = np.array(page.evaluate(script, as_picture(rgb_u8)))
    assert np.abs(theirs - ours).max() <= LOGIT_TOLERANCE
    assert theirs.argmax() == ours.argmax()


def test_the_webcam_is_named_as_python_names_its_pixels(page: Any, int8: Path, tmp_path: Path) -> None:
    page.get_by_role("button", name="Start webcam").click()
    until(page, "window.edgeStra.frames >= 5")
    script = "() => {" + PACK + "const {face, probabilities, smoothed} = window.edgeStra;"
    script += "const shown = document.getElementById('label').textContent;"
    script += "return [face.width, face.height, pack(face.bytes), probabilities, smoothed, shown] }"
    width, height, data, probabilities, smoothed, shown = page.evaluate(script)
    page.screenshot(path=str(tmp_path / "webcam.png"))
    rgb_u8 = np.frombuffer(bytes_of(data), np.uint8).reshape(height, width, 3)
    assert width == height == round(0.72 * 480) and rgb_u8.std() > 30, "the face in the guide's square"
    predictor = load_predictor(int8)
    ours = softmax(predictor(to_input(rgb_u8, predictor.spec.input))[0])
    assert np.abs(np.array(probabilities) - ours).max() <= PROBABILITY_TOLERANCE
    assert predictor.spec.labels[int(ours.argmax())] == predictor.spec.labels[int(np.argmax(probabilities))]
    assert shown == predictor.spec.labels[int(np.argmax(smoothed))]
    assert page.locator("#bars li").count() == len(predictor.spec.labels)
    until(page, "document.getElementById('rate').textContent.includes('fps')")
    page.get_by_role("button", name="Stop webcam").click()
    until(page, "document.getElementById('video').srcObject === null")


def test_a_picture_is_taken_without_a_webcam(page: Any, shared_file: Callable[[str], Path], tmp_path: Path) -> None:
    page.set_input_files("#choose", str(shared_file("media/astronaut.png")))
    until(page, "window.edgeStra.frames === 1")
    script = "() => {" + PACK + "return [window.edgeStra.face.width, pack(window.edgeStra.face.bytes)] }"
    side, data = page.evaluate(script)
    left = (512 - side) // 2
    wanted = read_rgb(shared_file("media/astronaut.png"))[left : left + side, left : left + side]
    assert bytes_of(data) == wanted.tobytes(), "a PNG's pixels come through unchanged"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.set_input_files("#choose", str(broken))
    until(page, "document.getElementById('status').textContent.includes('broken.png')")


def test_the_float_model_runs_too(chromium: Any, exported: Exported, page_folder: Path, served: str) -> None:
    """Its folder, built once, with the other model in it: what the script copies is tested elsewhere."""
    about = json.loads((page_folder / "model.json").read_text("utf-8"))
    predictor = load_predictor(exported.path)
    about |= {"quantize": "fp32", "sha256": predictor.artifact.sha256}
    context = chromium.new_context()
    page = context.new_page()
    page.route("**/model.json", lambda route: route.fulfill(json=about))
    page.route("**/model.tflite", lambda route: route.fulfill(body=exported.path.read_bytes()))
    page.goto(served + "?debug")
    until(page, "!document.getElementById('start').disabled")
    rgb_u8 = pictures()["steps"]
    ours = predictor(to_input(rgb_u8, predictor.spec.input))[0]
    script = "async ([width, height, data]) => {" + UNPACK
    script += "return window.edgeStra.run({width, height, channels: 3, bytes}) }"
    theirs = np.array(page.evaluate(script, as_picture(rgb_u8)))
    context.close()
    assert np.abs(theirs - ours).max() <= LOGIT_TOLERANCE


def test_the_browsers_own_face_detector_is_used_where_there_is_one(chromium: Any, served: str) -> None:
    context = chromium.new_context(permissions=["camera"])
    page = context.new_page()
    script = "const boundingBox = {x: 200.4, y: 100, width: 120, height: 140};"
    script += "window.answers = [[{boundingBox}], [], 'broken']; window.FaceDetector = class { async detect() { "
    script += "const a = window.answers[0]; if (a === 'broken') throw new Error(a); return a } }"
    page.add_init_script(script)
    page.goto(served + "?debug")
    until(page, "!document.getElementById('start').disabled")
    page.get_by_role("button", name="Start webcam").click()
    left = "Math.round(6.4 * parseFloat(document.getElementById('guide').style.left))"
    until(page, f"window.edgeStra.face?.width === 140 && {left} === 190")
    page.evaluate("window.answers.shift()")  # nobody there: the guide's square again
    until(page, "window.edgeStra.face.width === 346")
    page.evaluate("window.answers = [window.answers[1]]")  # the API without a detector behind it
    before = page.evaluate("window.edgeStra.frames")
    until(page, f"window.edgeStra.frames > {before} + 5 && window.edgeStra.face.width === 346")
    context.close()


def test_a_model_that_was_exchanged_is_refused(chromium: Any, int8: Path, served: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.route("**/model.tflite", lambda route: route.fulfill(body=int8.read_bytes()[:-1]))
    page.goto(served)
    until(page, "document.getElementById('status').textContent.includes('does not match')")
    assert page.locator("#start").is_disabled()
    context.close()


def test_what_is_built(page_folder: Path, int8: Path) -> None:
    assert (page_folder / "model.tflite").read_bytes() == int8.read_bytes()
    about = json.loads((page_folder / "model.json").read_text("utf-8"))
    predictor = load_predictor(int8)
    assert about["spec"] == predictor.spec.to_json() and about["sha256"] == predictor.artifact.sha256
    assert about["smoothing"] == {"tau_s": TAU_S, "gap_s": GAP_S}
    names = {path.relative_to(page_folder).as_posix() for path in page_folder.rglob("*") if path.is_file()}
    assert {"index.html", "app.js", "style.css", "licences.txt", "wasm/litert_wasm_internal.wasm"} <= names
    assert not any("thread" in name or "node_modules" in name for name in names)
    own = [path for path in page_folder.iterdir() if path.is_file() and path.suffix != ".tflite"]
    assert sum(path.stat().st_size for path in own) < 100_000


def test_a_wrong_artifact_or_place_leaves_nothing(int8: Path, page_folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"TFL3" * 10)
    done = build(tmp_path / "page", bad)
    assert done.returncode == 1 and str(bad) in done.stderr.strip().splitlines()[-1]
    reid = shipped_artifact("mobilenetv2_stra.reid")
    assert reid is not None
    done = build(tmp_path / "page", reid)
    assert done.returncode == 1 and "must be for the task 'fer'" in done.stderr.strip().splitlines()[-1]
    done = build(page_folder, int8)
    assert done.returncode == 1 and "holds something" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tflite"]


def test_the_lock_names_no_host_and_versions_are_pinned() -> None:
    lock = json.loads((REPOSITORY / "web" / "package-lock.json").read_text("utf-8"))
    wanted = json.loads((REPOSITORY / "web" / "package.json").read_text("utf-8"))
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, package in lock["packages"].items():
        assert name == "" or package["integrity"].startswith("sha512-"), name
        assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/"), name
