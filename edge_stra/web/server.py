"""The web page as an output of a live app."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future

from edge_stra.extras import install_command
from edge_stra.live.scene import Controls, Scene
from edge_stra.spec import MissingError, OutputError
from edge_stra.web.access import Access, check_binding
from edge_stra.web.hub import Hub

BACKLOG = 64
CLOSE_S = 2.0  # what open requests get to end by themselves
IDLE_CONNECTION_S = 30.0  # without a request; aiohttp would keep its place for an hour


class WebOutput:
    """Serves the page from its own thread until `close`; `url` is where.

    `write` keeps the newest scene and returns at once. `port` 0 takes a free one. Raises OutputError where the port
    is taken or where the address could be seen by others without a token, MissingError without aiohttp.
    """

    def __init__(self, controls: Controls, host: str = "127.0.0.1", port: int = 8080, token: str | None = None) -> None:
        check_binding(host, token)
        try:
            import aiohttp  # noqa: F401
        except ImportError as error:
            raise MissingError(f"the web page needs aiohttp; run: {install_command('pi')}") from error
        listening = listen(host, port)
        self.port: int = listening.getsockname()[1]
        self.url = f"http://{shown(host)}:{self.port}/"
        self.loop = asyncio.new_event_loop()
        self.hub = Hub(controls, self.loop)
        self._stop = asyncio.Event()
        ready: Future[None] = Future()
        arguments = (listening, Access(token, self.port), ready)
        self._thread = threading.Thread(target=self._run, args=arguments, name="edge-stra-web", daemon=True)
        self._thread.start()
        ready.result()

    def write(self, scene: Scene) -> None:
        """Shows a scene to whoever watches. Never waits. Raises OutputError where the server has ended."""
        self.hub.put(scene)

    def close(self) -> None:
        """Ends all connections and frees the port; a second call does nothing."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self, listening: socket.socket, access: Access, ready: Future[None]) -> None:
        try:
            self.loop.run_until_complete(self._serve(listening, access, ready))
        except Exception as error:  # told to the caller, who waits for it
            if ready.done():
                raise
            ready.set_exception(error)
        finally:
            listening.close()
            self.loop.close()

    async def _serve(self, listening: socket.socket, access: Access, ready: Future[None]) -> None:
        from aiohttp import web

        from edge_stra.web.routes import Gate, application

        # handler_cancellation: who leaves is not waited for until the next picture
        runner = web.AppRunner(
            application(self.hub, access),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=CLOSE_S,
            keepalive_timeout=IDLE_CONNECTION_S,
        )
        await runner.setup()
        requests = runner.server
        assert requests is not None
        server = await self.loop.create_server(lambda: Gate(requests), sock=listening)
        ready.set_result(None)
        await self._stop.wait()
        server.close()
        self.hub.close()
        await runner.cleanup()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is told at once. Raises OutputError."""
    if not 0 <= port <= 65535:
        raise OutputError(f"the web page's port must be 0 to 65535, but is {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the second: a name that no DNS could hold, like a..b
        raise OutputError(f"the web page's host {host!r} must be an address of this machine, but: {error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        if host == "::":
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise OutputError(
            f"the web page can't listen on {host}, port {port}: {error.strerror or error}; "
            "end what listens there, or choose another port (0 takes a free one)"
        ) from error
    return listening


def own_address() -> str | None:
    """This machine's IPv4 address on its way out, which a phone can open where the bare name resolves for nobody."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # of RFC 5737, nobody's; a datagram socket sends nothing here
            address: str = probe.getsockname()[0]
            return address
    except OSError:  # no network, or none of this kind
        return None


def shown(host: str) -> str:
    """A host as a URL names it; an address that means all of them becomes the one that others reach."""
    if host in ("0.0.0.0", "::"):
        return own_address() or socket.gethostname()
    return f"[{host}]" if ":" in host else host
