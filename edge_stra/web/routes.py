"""The web page's addresses. The one module that knows aiohttp's requests and responses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from edge_stra.spec import DataError
from edge_stra.web.access import Access, refusal
from edge_stra.web.hub import Hub, message

MAX_BODY_BYTES = 4096
MAX_CLIENTS = 32  # streams and sockets together
MAX_CONNECTIONS = 128
BODY_S = 5.0
DRAIN_S = 5.0  # a client that takes nothing for so long is cut off
EVENTS_PER_S = 15.0
IDLE_S = 0.25  # settings that changed are told within this, also without a new scene
BUFFER_BYTES = 128 << 10  # of the kernel: by default it keeps megabytes, seconds of pictures, for a slow client
STATUS_EVERY_S = 1.0
BOUNDARY = "frame"
PAGE = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PUBLIC = ("/style.css", "/icon.svg")  # what the page that asks for the token shows
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "edge-stra",
}
HUB: web.AppKey[Hub] = web.AppKey("hub", Hub)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(hub: Hub, access: Access) -> web.Application:
    """All that the server answers; anything else is 404."""
    app = web.Application(middlewares=[guard(access)], client_max_size=MAX_BODY_BYTES)
    app[HUB] = hub
    app.on_response_prepare.append(secure)
    for path in sorted(PAGE.iterdir()):
        if path.suffix in TYPES and path.name != "token.html":
            app.router.add_get("/" if path.name == "index.html" else f"/{path.name}", file_handler(path))
    app.router.add_get("/stream.mjpg", stream, allow_head=False)
    app.router.add_get("/events", events, allow_head=False)
    app.router.add_get("/snapshot.jpg", snapshot)
    app.router.add_get("/api/status", status)
    app.router.add_get("/api/controls", controls)
    app.router.add_post("/api/controls", change)
    return app


class Gate(asyncio.Protocol):
    """Hands a new connection on to the server, or hangs up where there are MAX_CONNECTIONS already."""

    def __init__(self, server: web.Server) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self.server.connections) >= MAX_CONNECTIONS:
            transport.close()
            return
        inner = self.server()
        transport.set_protocol(inner)
        inner.connection_made(transport)


def file_handler(path: Path) -> Handler:
    """Answers with a file of the page, read once."""
    body, kind = path.read_bytes(), TYPES[path.suffix]

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=kind, charset="utf-8")

    return handle


def guard(access: Access) -> Any:
    """The middleware that lets nobody through without right."""
    asking = (PAGE / "token.html").read_bytes()
    wrong = asking.replace(b"<!-- wrong -->", b'<p class="hint" role="alert">That is not the token.</p>')

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if reason := refusal(access, request.headers, request.method, request.path):
            return web.json_response({"error": reason}, status=403)
        knows = access.knows_token(request.query.get("token", ""))
        if knows and request.path == "/":
            # Sent back to itself without the token, which so stays out of history and bookmarks
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(access.cookie_name, access.cookie_value, httponly=True, samesite="Strict")
            return answer
        if knows or request.path in PUBLIC or access.admits(request.headers, request.cookies):
            return await handler(request)
        if request.path == "/":
            body = wrong if "token" in request.query else asking
            return web.Response(body=body, status=401, content_type="text/html", charset="utf-8")
        return web.json_response(
            {"error": "the token is missing or wrong; give it as ?token=... or as Authorization: Bearer ..."},
            status=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    return check


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


@contextlib.contextmanager
def counted(hub: Hub) -> Iterator[None]:
    """Holds a client's place. Raises 503 where there is none left."""
    if len(hub.clients) >= MAX_CLIENTS:
        raise web.HTTPServiceUnavailable(text=f"at most {MAX_CLIENTS} may watch at once; try again later")
    task = asyncio.current_task()
    assert task is not None
    hub.clients.add(task)
    try:
        yield
    finally:
        hub.clients.discard(task)


async def stream(request: web.Request) -> web.StreamResponse:
    """The pictures as they come; each client gets the newest when it has taken the last."""
    hub = request.app[HUB]
    with counted(hub):
        response = web.StreamResponse(headers={"Content-Type": f"multipart/x-mixed-replace; boundary={BOUNDARY}"})
        seen = 0
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            bound(request)
            # The boundary goes after each picture: browsers show one when they know that it has ended.
            await response.write(f"--{BOUNDARY}\r\n".encode())
            while await hub.newer(seen):
                seen, jpeg = hub.version, await hub.jpeg()
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                with patiently(request):
                    await response.write(head + jpeg + f"\r\n--{BOUNDARY}\r\n".encode())
        return response


def bound(request: web.Request) -> None:
    """Little is kept for a client that reads slowly."""
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=BUFFER_BYTES)  # type: ignore[attr-defined]
        if (connection := request.transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)


@contextlib.contextmanager
def patiently(request: web.Request) -> Iterator[None]:
    """Hangs up on a client that takes nothing for DRAIN_S of what is sent inside; that raises ConnectionError there.

    A slow client that takes some of it is waited for: it gets fewer pictures.
    """
    # Not asyncio.wait_for, which may lose a cancellation before Python 3.12
    if (transport := request.transport) is None:
        raise ConnectionResetError("the client is gone")
    loop = asyncio.get_running_loop()
    waiting: list[int] = []  # bytes at each look
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal timer
        waiting.append(transport.get_write_buffer_size())  # type: ignore[attr-defined]
        if len(waiting) > 1 and waiting[-1] >= waiting[-2]:
            transport.abort()  # type: ignore[attr-defined]
        else:
            timer = loop.call_later(DRAIN_S / 2, look)

    timer = loop.call_later(DRAIN_S / 2, look)
    try:
        yield
    finally:
        timer.cancel()


async def events(request: web.Request) -> web.StreamResponse:
    """A socket that tells scenes, the newest at most EVENTS_PER_S times a second, settings on change, and status."""
    hub = request.app[HUB]
    with counted(hub):
        answer = web.WebSocketResponse(heartbeat=10, max_msg_size=MAX_BODY_BYTES, compress=False)
        await answer.prepare(request)
        bound(request)
        # Nothing is expected from the page, which posts its wishes: the first message is its farewell.
        tasks = [asyncio.create_task(tell(request, answer, hub)), asyncio.create_task(answer.receive())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()  # raises what went wrong
        return answer


async def tell(request: web.Request, answer: web.WebSocketResponse, hub: Hub) -> None:
    clock = asyncio.get_running_loop().time
    seen, told, status_due_s = 0, None, 0.0

    async def send(text: str) -> None:
        with patiently(request):
            await answer.send_str(text)

    with contextlib.suppress(ConnectionError):
        while True:
            if (settings := hub.controls.snapshot()) != told:
                told = settings
                await send(message("controls", settings))
            if clock() >= status_due_s:
                status_due_s = clock() + STATUS_EVERY_S
                await send(message("status", hub.status()))
            if await hub.newer(seen, IDLE_S):
                seen = hub.version
                await send(hub.text())
                await asyncio.sleep(1 / EVENTS_PER_S)


async def snapshot(request: web.Request) -> web.StreamResponse:
    hub = request.app[HUB]
    if not hub.version:
        return web.json_response({"error": "there is no picture yet; try again"}, status=503)
    return web.Response(body=await hub.jpeg(), content_type="image/jpeg")


async def status(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[HUB].status())


async def controls(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[HUB].controls.snapshot())


async def change(request: web.Request) -> web.StreamResponse:
    """Changes the settings that a JSON object names; answers with all of them."""
    settings = request.app[HUB].controls
    if request.content_type != "application/json":  # what another site's form can't send
        return web.json_response({"error": "the settings must be sent as application/json"}, status=415)
    try:
        wishes = json.loads(await asyncio.wait_for(request.read(), BODY_S))
        if not isinstance(wishes, dict):
            raise DataError(f"the settings must be a JSON object, but are {type(wishes).__name__}")
        settings.change(wishes)
    except DataError as error:
        return web.json_response({"error": str(error)}, status=400)
    except (ValueError, RecursionError):
        return web.json_response({"error": "the settings must be a JSON object, but are no JSON"}, status=400)
    except asyncio.TimeoutError:
        return web.json_response({"error": f"the settings must come within {BODY_S:.0f} s"}, status=408)
    return web.json_response(settings.snapshot())
