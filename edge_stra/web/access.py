"""Who may see the web page: a token, or this machine alone. Imports nothing of aiohttp."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from edge_stra.spec import OutputError

MIN_TOKEN = 16
MAX_TOKEN = 256
BEARER = "Bearer "


@dataclass(frozen=True)
class Access:
    """What is demanded of a request; `token` is None on loopback only."""

    token: str | None
    port: int

    @property
    def cookie_name(self) -> str:
        """Named by the port: browsers send a host's cookies to all of its ports."""
        return f"edge_stra_{self.port}"

    @property
    def cookie_value(self) -> str:
        """Derived from the token, so that another server of the same host does not get to see the token."""
        return hmac.new((self.token or "").encode(), b"edge-stra cookie", hashlib.sha256).hexdigest()

    def knows_token(self, given: str) -> bool:
        return self.token is not None and same(given, self.token)

    def admits(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request shows the token, as a cookie or as `Authorization: Bearer`; none is needed without one."""
        if self.token is None:
            return True
        cookie, header = cookies.get(self.cookie_name, ""), headers.get("Authorization", "")
        if same(cookie, self.cookie_value):
            return True
        return header.startswith(BEARER) and self.knows_token(header.removeprefix(BEARER).strip())


def same(given: str, wanted: str) -> bool:
    """Compared in constant time; what comes may hold bytes that are no text."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode())


def check_binding(host: str, token: str | None) -> None:
    """Raises OutputError where other machines could look without a token, or where the token is too weak."""
    if token is None:
        if not is_loopback(host):
            raise OutputError(
                f"a web page on {host} can be seen by other machines and so needs a token, but there is none; "
                f"give one of {MIN_TOKEN} characters or more, or bind to 127.0.0.1"
            )
        return
    plain = token.isascii() and token.isprintable() and " " not in token
    if not (MIN_TOKEN <= len(token) <= MAX_TOKEN and plain):
        raise OutputError(
            f"the web page's token must be {MIN_TOKEN} to {MAX_TOKEN} ASCII letters, digits or signs, "
            f"but the given one has {len(token)} characters{'' if plain else ', not all of them such'}; make one with: "
            'python -c "import secrets; print(secrets.token_urlsafe())"'
        )


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own: localhost, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def name_of(host_header: str) -> str:
    """The name or address in a Host header, without its port and brackets; empty where it can't be read."""
    try:
        return urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return ""


def is_own(origin: str, host: str) -> bool:
    """Whether an Origin header names the page that this Host serves."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == host


def refusal(access: Access, headers: Mapping[str, str], method: str, path: str) -> str | None:
    """Why a request that another site's page may have sent is refused; None where it is not.

    Without a token the Host must be this machine's own name, as a name of the attacker's may resolve to 127.0.0.1
    (DNS rebinding). A page of another origin may link here, but not embed, read, change or listen.
    """
    host = headers.get("Host", "")
    if access.token is None and not is_loopback(name_of(host)):
        return "this page answers to localhost alone; open it by the address that the app printed"
    origin = headers.get("Origin")
    if origin is not None and not is_own(origin, host):
        return "the request comes from a page of another origin"
    navigates = method in ("GET", "HEAD") and path == "/"
    if not navigates and headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "the request comes from a page of another site"
    return None
