"""The web page's server: who may see it, what it answers, and that no viewer can hold up the app or another viewer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from edge_stra.extras import install_command
from edge_stra.live.scene import Controls, Scene
from edge_stra.spec import MissingError, OutputError

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed; scripts/setup pi")

from edge_stra.web import hub, routes  # noqa: E402
from edge_stra.web.server import WebOutput, own_address  # noqa: E402

TOKEN = "an-example-token-of-40-letters-and-signs"
LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
WAIT_S = 20.0  # for what comes at once on an idle machine


def noise() -> np.ndarray:
    """A picture whose JPEG, of about 1 MB, is larger than all buffers on the way to a viewer."""
    return np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)


def scene(index: int) -> Scene:
    """A picture whose brightness is its number's (in steps that JPEG keeps), and one face."""
    picture = np.full((120, 160, 3), 20 * (index % 12), np.uint8)
    face = {
        "track": 3,
        "box_xywh": [10, 10, 50, 50],
        "label": "happiness",
        "probability": 0.93,
        "probabilities": dict.fromkeys(LABELS, 0.01) | {"happiness": 0.94},
        "score": 0.99,
    }
    return Scene("camera 0", index, index / 30, picture, [face], {"detect": 8.0 + index % 5, "predict": 4.0}, 21.0)


@contextlib.contextmanager
def serving(token: str | None = None, controls: Controls | None = None, host: str = "127.0.0.1") -> Iterator[WebOutput]:
    output = WebOutput(controls or Controls(0.4, models=("a", "b"), model="a"), host, 0, token)
    try:
        yield output
    finally:
        output.close()


class Producer:
    """Writes scenes at 30 a second from a thread of its own, as an app does, and counts them."""

    def __init__(self, output: WebOutput, picture_u8: np.ndarray | None = None) -> None:
        self.output, self.picture_u8, self.count = output, picture_u8, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(1 / 30):
            one = scene(self.count)
            self.output.write(one if self.picture_u8 is None else replace(one, picture_u8=self.picture_u8))
            self.count += 1

    def __enter__(self) -> Producer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def run(task: Callable[[Any], Awaitable[Any]], cookies: bool = True) -> Any:
    """Runs a coroutine function with a client session."""

    async def main() -> Any:
        jar = aiohttp.CookieJar(unsafe=True) if cookies else aiohttp.DummyCookieJar()
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as session:
            return await task(session)

    return asyncio.run(main())


def get(output: WebOutput, path: str, method: str = "GET", **options: Any) -> tuple[int, Any, str]:
    """Status, headers and text of one request."""

    async def task(session: Any) -> tuple[int, Any, str]:
        async with session.request(method, output.url + path, allow_redirects=False, **options) as answer:
            return answer.status, answer.headers, (await answer.read()).decode("utf-8", "replace")

    result: tuple[int, Any, str] = run(task, cookies=False)
    return result


async def pictures(session: Any, output: WebOutput) -> AsyncIterator[bytes]:
    """The JPEGs of the stream, one by one."""
    async with session.get(output.url + "stream.mjpg") as answer:
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        assert await answer.content.readline() == b"--frame\r\n"
        while True:
            assert await answer.content.readline() == b"Content-Type: image/jpeg\r\n"
            length = int((await answer.content.readline()).split(b":")[1])
            assert await answer.content.readline() == b"\r\n"
            yield await answer.content.readexactly(length)
            assert await answer.content.readexactly(2) == b"\r\n"
            assert await answer.content.readline() == b"--frame\r\n"


async def some(session: Any, output: WebOutput, count: int) -> list[bytes]:
    """The stream's next `count` pictures."""
    stream = pictures(session, output)
    found = [await anext(stream) for _ in range(count)]
    await stream.aclose()  # type: ignore[attr-defined]
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)


async def eventually(condition: Callable[[], bool]) -> None:
    """`until`, while the loop goes on."""
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)


# --- who may see it


@pytest.mark.parametrize(
    ("host", "token", "words"),
    [
        ("0.0.0.0", None, "needs a token"),
        ("::", None, "needs a token"),
        ("192.168.1.7", None, "needs a token"),
        ("raspberrypi.local", None, "needs a token"),
        ("128.0.0.1", None, "needs a token"),
        ("127.0.0.1", "short", "16 to 256"),
        ("127.0.0.1", "", "16 to 256"),
        ("0.0.0.0", "fifteen-letters", "16 to 256"),
        ("0.0.0.0", "with a space in the midst", "ASCII"),
        ("0.0.0.0", "umlauts-äöü-are-no-help", "ASCII"),
    ],
)
def test_a_binding_that_others_could_use_is_refused(host: str, token: str | None, words: str) -> None:
    with pytest.raises(OutputError, match=words) as error:
        WebOutput(Controls(0.5), host, 0, token)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_token(host: str) -> None:
    with serving(host=host) as output:
        assert get(output, "")[0] == 200


def test_a_wrong_token_is_told() -> None:
    with serving(TOKEN) as output:
        asked, refused = get(output, ""), get(output, "?token=wrong-token-of-a-fair-length")
        assert asked[0] == refused[0] == 401
        assert "That is not the token" in refused[2] and "That is not the token" not in asked[2]


def test_all_addresses_with_a_token() -> None:
    with serving(TOKEN, host="0.0.0.0") as output:
        host = own_address()
        assert host != "0.0.0.0" and output.url == f"http://{host or socket.gethostname()}:{output.port}/"
        if host is not None:
            socket.create_connection((host, output.port), timeout=10).close()
        output.url = f"http://127.0.0.1:{output.port}/"
        assert get(output, "api/status")[0] == 401
        assert get(output, "api/status", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("", {}, 401),
        ("api/status", {}, 401),
        ("api/controls", {}, 401),
        ("stream.mjpg", {}, 401),
        ("snapshot.jpg", {}, 401),
        ("events", {}, 401),
        ("app.js", {}, 401),
        ("nothing-there", {}, 401),
        ("api/status?token=wrong-token-of-a-fair-length", {}, 401),
        ("api/status?token=", {}, 401),
        ("api/status?token=%ff%00", {}, 401),
        ("api/status", {"Authorization": "Bearer wrong-token-of-a-fair-length"}, 401),
        ("api/status", {"Authorization": f"Basic {TOKEN}"}, 401),
        ("api/status", {"Authorization": "Bearer é"}, 401),
        ("api/status", {"Cookie": "edge_stra_PORT=wrong"}, 401),
        ("api/status", {"Cookie": f"edge_stra_PORT={TOKEN}"}, 401),  # the cookie is derived, not the token
        ("api/status", {"Authorization": f"Bearer {TOKEN}"}, 200),
        (f"api/status?token={TOKEN}", {}, 200),
        ("style.css", {}, 200),  # the page that asks for the token shows these two
        ("icon.svg", {}, 200),
    ],
)
def test_the_token_is_demanded(path: str, headers: dict[str, str], status: int) -> None:
    with serving(TOKEN) as output:
        headers = {name: value.replace("PORT", str(output.port)) for name, value in headers.items()}
        got, _, text = get(output, path, headers=headers)
        assert got == status, text
        assert TOKEN not in text


def test_the_page_that_asks_for_the_token() -> None:
    with serving(TOKEN) as output:
        status, headers, text = get(output, "")
        assert status == 401 and headers["Content-Type"].startswith("text/html")
        assert '<input id="token" name="token"' in text
        assert get(output, "?token=wrong-token-of-a-fair-length")[0] == 401


def test_the_token_is_given_once_and_kept_in_a_cookie() -> None:
    with serving(TOKEN) as output:
        status, headers, _ = get(output, f"?token={TOKEN}")
        assert (status, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"]
        assert cookie.startswith(f"edge_stra_{output.port}=")
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
        pair = {"Cookie": cookie.split(";")[0]}
        assert get(output, "", headers=pair)[0] == 200
        assert get(output, "api/status", headers=pair)[0] == 200
        assert get(output, f"?token={TOKEN}", headers=pair)[0] == 303  # never left in the address


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8080"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "localhost:9999"}, 200),  # a forwarded port
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "localhost:1234", "Origin": "http://localhost:1234"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_requests_that_another_site_may_have_sent_are_refused(headers: dict[str, str], status: int) -> None:
    with serving() as output:
        assert get(output, "api/controls", headers=headers)[0] == status
        if "Host" not in headers and "Origin" not in headers:
            assert get(output, "", headers=headers)[0] == 200  # a link on another site may lead here


def test_another_origin_can_neither_listen_nor_change() -> None:
    async def listen(session: Any) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await session.ws_connect(output.url + "events", origin="http://evil.example")
        assert error.value.status == 403
        async with session.ws_connect(output.url + "events", origin=output.url.rstrip("/")) as events:
            assert (await events.receive_json())["kind"] == "controls"

    with serving(TOKEN) as guarded:  # a browser that knows the token sends it along: the origin must count
        pair = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}
        assert get(guarded, "api/controls", "POST", json={"privacy": True}, headers=pair)[0] == 403
    controls = Controls(0.5)
    with serving(controls=controls) as output:
        run(listen)
        assert get(output, "api/controls", "POST", json={"privacy": True}, headers={"Origin": "null"})[0] == 403
        assert not controls.privacy


def test_every_answer_carries_the_security_headers() -> None:
    with serving() as output:
        output.write(scene(0))
        until(lambda: output.hub.version > 0, "the first scene")
        for path, status in (("", 200), ("app.js", 200), ("snapshot.jpg", 200), ("api/status", 200), ("no", 404)):
            got, headers, _ = get(output, path)
            assert got == status
            assert "script-src 'self'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            wanted = {"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
            assert {name: headers[name] for name in wanted} == wanted, path
            assert "aiohttp" not in headers["Server"]


@pytest.mark.parametrize(
    "path", ["page/", "static/", "..%2f..%2fserver.py", "%2e%2e/server.py", "server.py", "token.html"]
)
def test_nothing_but_the_page_is_served(path: str) -> None:
    with serving() as output:
        assert get(output, path)[0] == 404


@pytest.mark.parametrize("path", ["..%2fserver.py", "%2e%2e/server.py", "..%2f..%2f__init__.py", "../server.py"])
def test_no_path_leads_out_of_the_page(path: str) -> None:
    """As bytes on the wire: a client's library would take the dots out before it asks."""
    with serving() as output, socket.create_connection(("127.0.0.1", output.port), timeout=WAIT_S) as wire:
        wire.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert wire.recv(64).split(b" ")[1] in (b"403", b"404")


def test_the_page_has_no_inline_script_or_style_and_no_address_elsewhere() -> None:
    files = [path for path in routes.PAGE.iterdir() if path.suffix in routes.TYPES]
    assert {"index.html", "app.js", "style.css"} <= {path.name for path in files}
    for path in files:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, path
        if path.suffix == ".html":
            assert "<style" not in text and " style=" not in text and " on" + "click=" not in text, path
            assert text.count("<script") == text.count('<script type="module" src='), path


# --- settings and status


@pytest.mark.parametrize(
    ("wish", "changed"),
    [
        ({"threshold": 0.75}, {"threshold": 0.75}),
        ({"threshold": 1}, {"threshold": 1.0}),
        ({"model": "b"}, {"model": "b"}),
        ({"recording": True, "privacy": True}, {"recording": True, "privacy": True}),
        ({}, {}),
    ],
)
def test_settings_are_changed(wish: dict[str, Any], changed: dict[str, Any]) -> None:
    controls = Controls(0.4, models=("a", "b"), model="a")
    before = controls.snapshot()
    with serving(controls=controls) as output:
        status, _, text = get(output, "api/controls", "POST", json=wish)
        assert status == 200
        assert json.loads(text) == before | changed | {"changes": 1} == controls.snapshot()
        assert json.loads(get(output, "api/controls")[2]) == before | changed | {"changes": 1}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ('{"threshold": 2}', 400, "threshold must be a number from 0 to 1, but is 2"),
        ('{"threshold": NaN}', 400, "threshold must be a number"),
        ('{"threshold": ' + "9" * 400 + "}", 400, "must be"),
        ('{"model": "c"}', 400, "one of a, b"),
        ('{"model": ["a"]}', 400, "one of a, b"),
        ('{"privacy": 1}', 400, "true or false"),
        ('{"attention": true}', 400, "can't be changed"),
        ('{"stop": true}', 400, "can't be changed"),
        ('{"privacy": true, "threshold": -1}', 400, "threshold must be"),  # all or none
        ("[]", 400, "JSON object"),
        ("{", 400, "JSON object"),
        ("\udcff", 400, "JSON object"),
        ("[" * 3000, 400, "JSON object"),
        ("", 400, "JSON object"),
        ('{"privacy": true, "x": "' + "x" * 5000 + '"}', 413, ""),
    ],
)
def test_wrong_settings_are_refused_in_one_line(body: str, status: int, words: str) -> None:
    controls = Controls(0.4, models=("a", "b"), model="a")
    before = controls.snapshot()
    with serving(controls=controls) as output:
        data = body.encode("utf-8", "surrogateescape")
        got, headers, text = get(
            output, "api/controls", "POST", data=data, headers={"Content-Type": "application/json"}
        )
        assert got == status and words in text
        if status == 400:
            assert headers["Content-Type"].startswith("application/json")
            assert "\n" not in json.loads(text)["error"]
    assert controls.snapshot() == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_settings_come_as_json_alone(kind: str) -> None:
    """A form of another site can send these three without asking."""
    with serving() as output:
        got = get(output, "api/controls", "POST", data=b'{"privacy": true}', headers={"Content-Type": kind})
        assert got[0] == 415


def test_status_tells_rates_latencies_and_recording() -> None:
    controls = Controls(0.4)
    with serving(controls=controls) as output:
        empty = json.loads(get(output, "api/status")[2])
        assert (empty["frames"], empty["fps"], empty["source"], empty["lag_ms"]) == (0, 0.0, None, None)
        assert empty["recording_s"] is None and empty["stages_ms"] == {}
        controls.change({"recording": True})
        for index in range(5):
            output.write(scene(index))
            time.sleep(0.01)
        told = json.loads(get(output, "api/status")[2])
        assert (told["frames"], told["source"], told["recording"]) == (5, "camera 0", True)
        assert told["stages_ms"] == {"detect": {"p50": 10.0, "p90": 11.6}, "predict": {"p50": 4.0, "p90": 4.0}}
        assert told["lag_ms"] == {"p50": 21.0, "p90": 21.0}
        assert 0 < told["fps"] <= 100 and told["recording_s"] >= 0 and told["uptime_s"] > 0


def test_the_snapshot_is_the_newest_picture() -> None:
    async def task(session: Any) -> bytes:
        async with session.get(output.url + "snapshot.jpg") as answer:
            assert answer.status == 200 and answer.headers["Content-Type"] == "image/jpeg"
            return await answer.read()  # type: ignore[no-any-return]

    with serving() as output:
        assert get(output, "snapshot.jpg")[0] == 503
        output.write(scene(2))
        output.write(scene(7))
        until(lambda: output.hub.text().find('"frame": 7') > 0 if output.hub.version else False, "the newest scene")
        bgr = cv2.imdecode(np.frombuffer(run(task), np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None and bgr.shape == (120, 160, 3)
        assert abs(float(bgr.mean()) - 140) < 3


# --- many viewers, bad viewers


def test_events_tell_settings_status_and_the_newest_scene_at_a_bounded_rate() -> None:
    async def task(session: Any) -> None:
        kinds: dict[str, int] = {}
        async with session.ws_connect(output.url + "events") as events:
            frames: list[int] = []
            while kinds.get("scene", 0) < 10:
                news = await events.receive_json()
                kinds[news["kind"]] = kinds.get(news["kind"], 0) + 1
                if news["kind"] == "scene":
                    frames.append(news["frame"])
                    assert news["rows"][0]["label"] == "happiness" and "picture_u8" not in news
            assert min(np.diff(sent_s)) >= 1 / routes.EVENTS_PER_S - 0.005, "faster than the limit"
            assert frames == [3 + 4 * index for index in range(10)], "newest wins, none twice"
            assert kinds["controls"] == 1 and kinds["status"] >= 1
            controls.change({"threshold": 0.9})
            while (news := await events.receive_json())["kind"] != "controls":
                pass
            assert news["threshold"] == 0.9

    controls, sent_s, numbers = Controls(0.4), list[float](), itertools.count()

    def four_scenes() -> None:
        for _ in range(4):
            output.write(scene(next(numbers)))

    def text() -> str:
        """What is told of the newest scene; four more come before the next telling."""
        sent_s.append(output.loop.time())
        found = kept()
        four_scenes()
        return found

    with serving(controls=controls) as output:
        kept, output.hub.text = output.hub.text, text  # type: ignore[method-assign]
        four_scenes()
        run(task)


def test_ten_viewers_at_once_all_get_pictures_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = hub.encode

    def counting(one: Scene) -> bytes:
        encoded.append(one.index)
        return encode(one)

    monkeypatch.setattr(hub, "encode", counting)

    async def task(session: Any) -> list[list[bytes]]:
        return await asyncio.gather(*(some(session, output, 12) for _ in range(10)))

    with serving() as output, Producer(output) as producer:
        until(lambda: producer.count > 3, "the first scenes")
        assert encoded == [], "nothing is encoded while nobody watches"
        found = run(task)
        written = producer.count
    assert [len(one) for one in found] == [12] * 10
    assert all(data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9") for one in found for data in one)
    assert len(encoded) == len(set(encoded)) <= written, "once for all viewers"


def test_a_viewer_who_never_reads_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture fills the buffers of a socket that is never read; the app and another viewer go on."""

    async def task(session: Any) -> None:
        stuck = socket.create_connection(("127.0.0.1", output.port))
        stuck.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream = pictures(session, output)
        await anext(stream)
        await eventually(lambda: len(output.hub.clients) == 2)
        before, versions = producer.count, output.hub.version
        for _ in range(8):
            await anext(stream)
        assert producer.count > before and output.hub.version > versions
        assert len(output.hub.clients) == 2, "the stuck one was still there"
        await stream.aclose()  # type: ignore[attr-defined]
        stuck.close()

    monkeypatch.setattr(routes, "DRAIN_S", 3600)  # what comes of it in the end is the next test's
    with serving() as output, Producer(output, noise()) as producer:
        run(task)


def test_a_viewer_who_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "DRAIN_S", 0.2)
    picture = noise()
    with serving() as output:
        stuck = socket.create_connection(("127.0.0.1", output.port))
        stuck.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: len(output.hub.clients) == 1, "the viewer is counted")
        cut_off = False
        for index in range(200):
            output.write(replace(scene(index), picture_u8=picture))
            time.sleep(0.05)
            if cut_off := not output.hub.clients:
                break
        assert cut_off, "its place must be free again"
        stuck.close()


def test_a_viewer_who_reads_slowly_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes several times DRAIN_S here, and all of it comes."""
    monkeypatch.setattr(routes, "DRAIN_S", 1.5)
    monkeypatch.setattr(routes, "BUFFER_BYTES", 16 << 10)
    with serving() as output:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        slow.connect(("127.0.0.1", output.port))
        slow.settimeout(WAIT_S)
        slow.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: len(output.hub.clients) == 1, "the viewer is counted")
        picture = np.random.default_rng(0).integers(0, 256, (900, 1200, 3)).astype(np.uint8)
        output.write(replace(scene(0), picture_u8=picture))
        began, taken = time.monotonic(), b""
        while b"--frame\r\n" not in taken[-200:] or len(taken) < 100_000:
            part = slow.recv(32 << 10)
            assert part, f"cut off after {len(taken)} bytes"
            taken += part
            time.sleep(0.15)
        assert time.monotonic() - began > 2 * routes.DRAIN_S, "too fast to prove anything"
        assert len(output.hub.clients) == 1
        slow.close()


def test_a_connection_without_a_request_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_stra.web.server.IDLE_CONNECTION_S", 0.2)
    with serving() as output, socket.create_connection(("127.0.0.1", output.port)) as silent:
        silent.settimeout(WAIT_S)
        assert silent.recv(1) == b""


def test_the_app_is_not_held_up_by_a_server_that_is_busy() -> None:
    """`write` returns while the server's own thread does nothing at all, and leaves one call behind, not hundreds."""
    with serving() as output:
        entered, release = threading.Event(), threading.Event()
        wakes: list[int] = []
        original = output.hub._wake
        output.hub._wake = lambda: (wakes.append(1), original())[1]  # type: ignore[method-assign]

        def block() -> None:
            entered.set()
            release.wait(WAIT_S)

        output.loop.call_soon_threadsafe(block)
        assert entered.wait(WAIT_S)
        for index in range(300):
            output.write(scene(index))
        release.set()
        until(lambda: output.hub.version > 0, "the server goes on")
        assert len(wakes) == 1
        assert json.loads(output.hub.text())["frame"] == 299


def test_more_clients_than_there_are_places_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_CLIENTS", 2)

    async def task(session: Any) -> None:
        first = pictures(session, output)
        await anext(first)
        async with session.ws_connect(output.url + "events") as events:
            await events.receive_json()
            async with session.get(output.url + "stream.mjpg") as third:
                assert third.status == 503
            async with session.get(output.url + "api/status") as still:
                assert still.status == 200
        await eventually(lambda: len(output.hub.clients) <= 1)
        await some(session, output, 1)  # a place is free again
        await first.aclose()  # type: ignore[attr-defined]

    with serving() as output, Producer(output):
        run(task)


def test_more_connections_than_allowed_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_CONNECTIONS", 3)
    with serving() as output:
        silent = [socket.create_connection(("127.0.0.1", output.port), timeout=WAIT_S) for _ in range(4)]
        assert silent[3].recv(1) == b"", "the fourth is closed"
        silent[0].close()
        until(lambda: _answers(output), "a place is free again")
        for one in silent[1:]:
            one.close()


def _answers(output: WebOutput) -> bool:
    try:
        return get(output, "api/status")[0] == 200
    except aiohttp.ClientError:
        return False


def test_viewers_who_leave_leave_no_tasks_behind() -> None:
    async def task(session: Any) -> None:
        for _ in range(3):
            await asyncio.gather(*(some(session, output, 2) for _ in range(4)))
            async with session.ws_connect(output.url + "events") as events:
                await events.receive_json()

    async def count() -> int:
        return len(asyncio.all_tasks()) - 1

    def tasks() -> int:
        return asyncio.run_coroutine_threadsafe(count(), output.loop).result(WAIT_S)

    with serving() as output:
        alone = tasks()
        with Producer(output) as producer:
            run(task)
            # someone who sends half a request, and someone who leaves a socket without a farewell
            half = socket.create_connection(("127.0.0.1", output.port))
            half.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: local")
            half.close()
            rude = socket.create_connection(("127.0.0.1", output.port))
            rude.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert rude.recv(1)
            rude.close()
            until(lambda: not output.hub.clients, "all places are free")
            before = producer.count
            until(lambda: producer.count > before + 3, "the app goes on")
        until(lambda: tasks() == alone, "no task is left")


def test_a_viewer_who_leaves_before_the_next_picture_is_noticed() -> None:
    """A source may be silent for long: the stream's task must end by the farewell, not by the next write."""
    with serving() as output:
        output.write(scene(0))
        viewer = socket.create_connection(("127.0.0.1", output.port))
        viewer.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: len(output.hub.clients) == 1, "the viewer is counted")
        viewer.close()
        until(lambda: not output.hub.clients, "the viewer is gone")


# --- beginning and end


def test_a_port_in_use_is_told_in_one_line() -> None:
    with serving() as output:
        with pytest.raises(OutputError, match=f"port {output.port}.*another port") as error:
            WebOutput(Controls(0.5), "127.0.0.1", output.port)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("host", "port", "words"), [
    ("127.0.0.1", 65536, "0 to 65535"), ("127.0.0.1", -1, "0 to 65535"),
    ("no.such.host.invalid", 0, "must be an address"),
    ("203.0.113.9", 0, "can't listen"),
])  # fmt: skip
def test_a_place_that_can_not_be_bound(host: str, port: int, words: str) -> None:
    with pytest.raises(OutputError, match=words) as error:
        WebOutput(Controls(0.5), host, port, TOKEN)
    assert "\n" not in str(error.value)


def test_close_frees_the_port_ends_viewers_and_the_thread() -> None:
    async def task(session: Any) -> None:
        stream = pictures(session, output)
        await anext(stream)
        events = await session.ws_connect(output.url + "events")
        await events.receive_json()
        output.loop.call_soon_threadsafe(time.sleep, 0.2)  # busy: close must wait
        await asyncio.get_running_loop().run_in_executor(None, output.close)
        assert "edge-stra-web" not in [thread.name for thread in threading.enumerate()]
        while (await events.receive()).type == aiohttp.WSMsgType.TEXT:
            pass
        assert events.closed
        with pytest.raises((aiohttp.ClientError, asyncio.IncompleteReadError)):
            while True:
                await anext(stream)

    output = WebOutput(Controls(0.5), port=0)
    port = output.port
    output.write(scene(0))
    run(task)
    output.close()  # a second time does nothing
    with pytest.raises(OutputError, match="has ended"):
        output.write(scene(1))
    again = WebOutput(Controls(0.5), port=port)
    assert get(again, "api/status")[0] == 200
    again.close()


def test_without_aiohttp_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingError, match=re.escape(install_command("pi"))):
        WebOutput(Controls(0.5), port=0)
