"""The web page in headless Chromium: what people see and do."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_stra.live.scene import Controls, Scene

pytest.importorskip("aiohttp", reason="aiohttp is not installed; scripts/setup pi")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")

from edge_stra.web.server import WebOutput  # noqa: E402

CHROMIUM = Path(os.environ.get("EDGE_STRA_CHROMIUM", "/usr/bin/chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
TOKEN = "an-example-token-of-40-letters-and-signs"
LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}; set EDGE_STRA_CHROMIUM"),
]


def face_rows(time_s: float) -> list[dict[str, Any]]:
    logits = np.array([2 * math.sin(2 * time_s + index) for index in range(7)])
    powers = np.exp(logits) / np.exp(logits).sum()
    probabilities = dict(zip(LABELS, powers.tolist(), strict=True))
    label = max(probabilities, key=lambda name: probabilities[name])
    row = {"track": 1, "box_xywh": [20, 20, 60, 60], "label": label, "score": 0.9}
    return [row | {"probability": probabilities[label], "probabilities": probabilities}]


def person_rows(time_s: float) -> list[dict[str, Any]]:
    known = {"track": 5, "box_xywh": [9, 9, 20, 60], "identity": "anna", "distance": 0.4, "score": 0.8}
    return [known, {"track": 8, "box_xywh": [80, 9, 20, 60], "identity": None, "distance": None, "score": 0.7}]


@dataclass
class App:
    """A live app: a thread that writes ten scenes a second."""

    output: WebOutput
    rows: Callable[[float], list[dict[str, Any]]]
    stop: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def end(self) -> None:
        """Its thread first: a scene that is written to a closed page is an error."""
        self.stop.set()
        if self.thread is not None:
            self.thread.join()
        self.output.close()

    def run(self) -> None:
        index = 0
        while not self.stop.wait(0.1):
            if self.pause.is_set():
                continue
            y, x = np.mgrid[:240, :320]
            picture = np.stack([(x + 8 * index) % 256, y, x * 0 + 90], 2).astype(np.uint8)
            time_s = index / 10
            stages = {"detect": 9.0, "predict": 4.0}
            self.output.write(Scene("camera 0", index, time_s, picture, self.rows(time_s), stages, 20.0))
            index += 1


@pytest.fixture
def live() -> Iterator[Callable[..., App]]:
    """A function: (controls, rows, token) -> a running app, stopped at the test's end."""
    running: list[App] = []

    def start(
        controls: Controls,
        rows: Callable[[float], list[dict[str, Any]]] = face_rows,
        token: str | None = None,
        port: int = 0,
    ) -> App:
        app = App(WebOutput(controls, "127.0.0.1", port, token), rows)
        app.start()
        running.append(app)
        return app

    yield start
    for app in running:
        app.end()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """A function: (address, options of a context) -> its page, with the test's end checking what it complained of."""
    contexts: list[Any] = []
    complaints: list[str] = []
    strangers: list[str] = []

    def open_page(url: str, quiet: bool = True, **options: Any) -> Any:
        context = chromium.new_context(**({"viewport": DESKTOP} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        home = url.split("?")[0].rstrip("/")
        page.on("request", lambda r: None if r.url.startswith((home, "data:")) else strangers.append(r.url))
        if quiet:
            page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == [] and strangers == []


def until(page: Any, condition: str | Callable[[], bool]) -> None:
    """Waits for an expression of the page or a condition; the page's policy forbids playwright's own way of waiting."""
    for _ in range(150):
        if page.evaluate(condition) if isinstance(condition, str) else condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came: {condition}")


def scale(page: Any, label: str) -> float:
    """How long a label's bar is, 0 to 1."""
    script = "name => +[...document.querySelectorAll('.row')].find(r => r.firstChild.textContent === name)"
    script += ".querySelector('i').style.transform.match(/[(]([^)]+)/)[1]"
    return float(page.evaluate(script, label))


def painted(page: Any) -> str:
    """The timeline as it is drawn."""
    return str(page.evaluate("document.getElementById('timeline').toDataURL()"))


def test_the_picture_the_card_and_the_timeline_live(live: Any, opened: Any) -> None:
    app = live(Controls(0.4))
    page = opened(app.output.url)
    until(page, "document.getElementById('picture').naturalWidth === 320")
    page.wait_for_selector(".card h3")
    assert page.locator(".card").count() == 1
    assert page.locator(".card .row").count() == 7
    assert page.locator("#cards-title").inner_text().lower() == "faces"
    before = scale(page, "anger")
    until(page, lambda: abs(scale(page, "anger") - before) > 0.02)
    first = painted(page)
    assert len(first) > 2000
    until(page, lambda: painted(page) != first)
    until(page, "+document.getElementById('fps').textContent > 3")
    assert page.locator("#stages tr").count() == 2 and "detect" in page.locator("#stages").inner_text()
    assert page.locator("#source").inner_text() == "camera 0"
    assert page.locator("#legend li").count() == 7


def test_people_have_a_name_a_distance_and_a_presence(live: Any, opened: Any) -> None:
    app = live(Controls(0.9, (0.0, 2.0)), person_rows)
    page = opened(app.output.url)
    page.wait_for_selector(".card:nth-child(2)")
    assert [t.strip() for t in page.locator(".card h3").all_inner_texts()] == ["anna", "unknown"]
    assert page.locator(".card output").all_inner_texts() == ["0.40", "\N{EN DASH}"]
    assert page.locator("#cards-title").inner_text().lower() == "people"
    assert page.locator("#threshold-value").inner_text() == "0.90"
    until(page, "document.getElementById('timeline').ariaLabel.includes('anna')")
    assert page.locator("#model-field").is_hidden() and page.locator("#attention-field").is_hidden()


def test_a_face_below_the_threshold_is_unsure(live: Any, opened: Any) -> None:
    page = opened(live(Controls(0.99), lambda time_s: [row | {"label": None} for row in face_rows(time_s)]).output.url)
    page.wait_for_selector(".card h3")
    assert page.locator(".card h3").inner_text() == "unsure"
    assert page.locator(".row.top").count() == 1 and page.locator("#legend li.top").count() == 0


def test_what_is_switched_reaches_the_app_and_what_the_app_changes_is_shown(live: Any, opened: Any) -> None:
    controls = Controls(0.4, models=("small", "large"), model="small", attention=False)
    page = opened(live(controls).output.url)
    until(page, "document.getElementById('threshold').value === '0.4'")
    page.locator("#threshold").focus()  # by the keyboard alone
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    until(page, "document.getElementById('threshold-value').textContent === '45%'")
    page.get_by_label("Blur faces").check()
    page.get_by_label("Show mode attention").check()
    page.get_by_label("Model").select_option("large")
    page.get_by_role("button", name="Start recording").click()
    page.get_by_role("button", name="Stop recording", pressed=True).wait_for()
    page.wait_for_selector("#recording:visible")
    wanted = {"threshold": 0.45, "privacy": True, "attention": True, "model": "large", "recording": True}
    assert wanted.items() <= controls.snapshot().items()
    controls.change({"recording": False, "threshold": 0.8, "model": "small"})  # another viewer, say
    page.get_by_role("button", name="Start recording", pressed=False).wait_for()
    until(page, "document.getElementById('threshold-value').textContent === '80%'")
    assert page.get_by_label("Model").input_value() == "small"
    page.wait_for_selector("#recording", state="hidden")


def test_an_answer_from_before_undoes_nothing(live: Any, opened: Any) -> None:
    """Over a slow network the answer to one wish comes when the next has already been set."""
    controls = Controls(0.4, attention=False)
    page = opened(live(controls).output.url)
    page.wait_for_selector("#attention:visible")
    held: list[Any] = []
    page.route("**/api/controls", lambda route: held.append(route))
    page.get_by_label("Blur faces").check()
    until(page, lambda: len(held) == 1)
    page.get_by_label("Show mode attention").check()
    page.get_by_label("Blur faces").uncheck()
    page.locator("#threshold").press("ArrowRight")
    page.get_by_role("button", name="Start recording").click()
    held.pop().continue_()  # its answer: faces are blurred, and nothing else has changed
    until(page, lambda: len(held) == 1)
    assert controls.privacy and not controls.attention
    controls.change({"privacy": False, "threshold": 0.7})  # another viewer; what was set here is still to be sent
    controls.change({"threshold": 0.6})
    page.wait_for_timeout(600)  # longer than the app takes to tell it
    assert page.get_by_label("Show mode attention").is_checked() and not page.get_by_label("Blur faces").is_checked()
    assert page.locator("#threshold-value").inner_text() == "41%"
    assert page.get_by_role("button", name="Stop recording", pressed=True).is_visible()
    held.pop().continue_()
    until(page, lambda: controls.recording)
    assert (controls.attention, controls.privacy, controls.threshold) == (True, False, 0.41)


def test_an_answer_that_newer_news_has_overtaken_is_not_shown(live: Any, opened: Any) -> None:
    """As where the disk is full: recording begins, and the app ends it before the page hears that it began."""
    controls = Controls(0.4)
    page = opened(live(controls).output.url)
    until(page, "document.getElementById('threshold').value === '0.4'")
    held: list[Any] = []

    def answer_late(route: Any) -> None:
        held.append((route, route.fetch()))  # the app has it, the page not yet

    page.route("**/api/controls", answer_late)
    page.get_by_role("button", name="Start recording").click()
    until(page, lambda: len(held) == 1)
    assert controls.recording
    controls.notice = "recording stopped: the disk is full"
    controls.change({"recording": False})
    page.wait_for_selector("#notice:visible")
    ((route, response),) = held
    route.fulfill(response=response)
    page.get_by_role("button", name="Start recording", pressed=False).wait_for()
    page.wait_for_timeout(500)  # longer than the app takes to tell anything
    assert page.get_by_role("button", name="Start recording", pressed=False).is_visible()


def test_a_wish_that_nobody_answers_is_given_up_and_the_next_one_is_asked(live: Any, opened: Any) -> None:
    controls = Controls(0.4)
    page = opened(live(controls).output.url, quiet=False)  # the browser itself reports a request that was cut
    until(page, "document.getElementById('threshold').value === '0.4'")
    held: list[Any] = []
    page.route("**/api/controls", lambda route: held.append(route))
    page.clock.install(time=0)
    page.clock.pause_at(5)  # seconds; from now on the page's time goes on where the test lets it
    page.get_by_label("Blur faces").check()
    until(page, lambda: len(held) == 1)
    page.clock.fast_forward(9_000)
    assert page.get_by_label("Blur faces").is_checked() and page.locator("#notice").is_hidden()
    page.clock.fast_forward(2_000)
    page.wait_for_selector("#notice:visible")
    assert page.locator("#notice").inner_text() == "The app does not answer; look whether it has changed."
    assert not page.get_by_label("Blur faces").is_checked()
    page.unroute("**/api/controls")
    page.get_by_label("Blur faces").check()
    until(page, lambda: controls.privacy)


def test_a_refused_wish_is_told_and_taken_back(live: Any, opened: Any) -> None:
    controls = Controls(0.4, models=("small", "large"), model="small")
    page = opened(live(controls).output.url, quiet=False)  # the browser itself reports an answer of 400
    page.wait_for_selector("#model:visible")
    wish = "() => { const s = document.getElementById('model'); s.add(new Option('huge', 'huge')); s.value = 'huge'; "
    page.evaluate(wish + "s.dispatchEvent(new Event('change')) }")
    page.wait_for_selector("#notice:visible")
    assert "model must be one of small, large, but is 'huge'" in page.locator("#notice").inner_text()
    assert page.get_by_label("Model").input_value() == "small" == controls.model


def test_what_the_app_changed_by_itself_is_told(live: Any, opened: Any) -> None:
    controls = Controls(0.4, recording=True)
    page = opened(live(controls).output.url)
    until(page, "document.getElementById('record').getAttribute('aria-pressed') === 'true'")
    assert page.locator("#notice").is_hidden()
    controls.notice = "recording stopped: the disk is full"
    controls.change({"recording": False})
    page.wait_for_selector("#notice:visible")
    assert page.locator("#notice").inner_text() == "recording stopped: the disk is full"


def test_the_token_is_asked_for_once(live: Any, opened: Any) -> None:
    app = live(Controls(0.4), token=TOKEN)
    page = opened(app.output.url, quiet=False)  # 401 on the way
    page.get_by_label("Token").fill("a-wrong-token-of-some-length")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()  # which the new page alone has
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Open").click()
    until(page, "document.getElementById('picture')?.naturalWidth === 320")
    page.wait_for_selector(".card h3")
    assert TOKEN not in page.url and page.url == app.output.url
    assert page.evaluate("document.cookie") == "", "scripts can't read it"
    page.reload()
    page.wait_for_selector(".card h3")


def test_a_lost_connection_is_told_and_mended(live: Any, opened: Any) -> None:
    app = live(Controls(0.4))
    page = opened(app.output.url, quiet=False)
    page.wait_for_selector(".card h3")
    app.end()
    page.wait_for_selector("#lost:visible")
    assert page.locator("#lost").get_attribute("role") == "alert"
    until(page, "document.getElementById('lost-next').textContent.startsWith('Trying again in')")
    again = live(Controls(0.7), port=app.output.port)
    page.wait_for_selector("#lost", state="hidden")
    until(page, "document.getElementById('threshold').value === '0.7'")
    until(page, "document.getElementById('picture').naturalWidth === 320")
    again.pause.set()
    page.wait_for_selector("#stale:visible")
    assert "No new picture" in page.locator("#stale").inner_text()


def test_a_connection_that_falls_silent_is_given_up(live: Any, opened: Any) -> None:
    """As where a plug was pulled: the socket stays open and nothing comes."""
    app = live(Controls(0.4))
    page = opened(app.output.url, quiet=False)
    page.wait_for_selector(".card h3")
    silent: list[Any] = []
    page.route_web_socket("**/events", lambda socket: silent.append(socket))
    page.clock.install()
    page.reload()
    until(page, lambda: len(silent) == 1)
    page.clock.fast_forward(11_000)
    until(page, lambda: len(silent) == 2)  # it has another try


def test_after_a_stall_the_pictures_are_asked_for_again(live: Any, opened: Any) -> None:
    app, asked = live(Controls(0.4)), []
    page = opened(app.output.url)
    page.wait_for_selector(".card h3")
    page.on("request", lambda request: asked.append(request.url) if "stream.mjpg" in request.url else None)
    app.pause.set()
    page.wait_for_selector("#stale:visible")
    page.wait_for_timeout(500)
    assert not asked
    app.pause.clear()
    page.wait_for_selector("#stale", state="hidden")
    until(page, lambda: len(asked) == 1)


def test_who_tries_at_once_gets_one_connection(live: Any, opened: Any) -> None:
    app, held = live(Controls(0.4)), []
    page = opened(app.output.url, quiet=False)
    page.wait_for_selector(".card h3")
    page.route("**/api/status", lambda route: held.append(route))
    app.end()
    until(page, lambda: len(held) == 1)
    again = live(Controls(0.7), port=app.output.port)
    page.click("#retry")
    page.wait_for_selector("#lost", state="hidden")
    until(page, lambda: len(again.output.hub.clients) == 2)
    held[0].abort()
    page.wait_for_timeout(2000)  # the first of the waits is 0.6 s at most
    assert len(again.output.hub.clients) == 2


def test_a_page_in_the_background_takes_no_pictures(live: Any, opened: Any) -> None:
    app = live(Controls(0.4))
    page = opened(app.output.url)
    until(page, "document.getElementById('picture').naturalWidth === 320")
    until(page, lambda: len(app.output.hub.clients) == 2)
    hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true}); "
    hide += "document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(hide, True)
    until(page, lambda: len(app.output.hub.clients) == 1)
    page.evaluate(hide, False)
    until(page, "document.getElementById('picture').naturalWidth === 320")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_it_fits_and_its_text_is_legible(live: Any, opened: Any, tmp_path: Path, size: Any, scheme: str) -> None:
    """Nothing is wider than the screen, and text has WCAG's contrast of 4.5 to its ground."""
    app = live(Controls(0.4, models=("a", "b"), model="a", attention=True, recording=True))
    page = opened(app.output.url, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_selector(".card h3")
    page.wait_for_selector("#recording:visible")
    picture = tmp_path / "page.png"
    page.screenshot(path=str(picture), full_page=True)
    assert picture.stat().st_size > 20_000
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert page.evaluate("[...document.getAnimations()].length") == 0, "reduced motion"
    script = """() => {
      const parse = (text) => text.match(/[0-9.]+/g).map(Number);
      const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = (e) => { for (; e; e = e.parentElement) {
        const rgb = parse(getComputedStyle(e).backgroundColor); if (rgb.length === 3) return rgb;
      } return [255, 255, 255]; };
      const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), bad = [];
      while (texts.nextNode()) {
        const e = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.closest('noscript, .unseen, option')) continue;
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) bad.push(`${texts.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
      }
      return bad; }"""
    assert page.evaluate(script) == []
    unnamed = "() => [...document.querySelectorAll('input, select, button, img, canvas')]"
    unnamed += (
        ".filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel || e.hasAttribute('alt'))).length"
    )
    assert page.evaluate(unnamed) == 0
