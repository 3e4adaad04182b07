"""A gallery by its URI."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from edge_stra.gallery.checks import check_maker
from edge_stra.gallery.store import Gallery, Maker
from edge_stra.quiet import without_secret
from edge_stra.spec import GalleryError

FORMS = "sqlite:///FILE.db, sqlite:////FOLDER/FILE.db, a path ending in .db, or milvus://HOST:19530[/DATABASE]"
MILVUS_PORT = 19530


def open_gallery(uri: str, maker: Maker | None, create: bool = True) -> Gallery:
    """The gallery at a URI (FORMS), made where it is absent, `create` is true and a maker is given.

    maker=None opens what is there with the maker that it holds. Raises GalleryError where there is none, where it is
    of another maker, damaged or of a newer version, or where a server can't be reached within seconds; MissingError
    where the engine's package is not installed.
    """
    if maker is not None:
        check_maker(maker)
    if (file := sqlite_path(uri)) is not None:
        from edge_stra.gallery.sqlite import SqliteGallery

        return SqliteGallery(file, maker, create)
    scheme, separator, _ = uri.partition("://")
    if scheme == "sqlite" and separator:
        raise GalleryError(f"a gallery's URI must be {FORMS}, but is {uri!r}; sqlite takes three slashes and a path")
    if scheme in ("milvus", "milvuss"):
        address, database, shown = milvus_address(uri)
        from edge_stra.gallery.milvus import MilvusGallery

        return MilvusGallery(address, database, shown, maker, create)
    # Only the scheme is shown: what follows may hold a password.
    came = f"has the scheme {scheme!r}" if separator else f"is {without_secret(uri)!r}"
    raise GalleryError(f"a gallery's URI must be {FORMS}, but {came}")


def sqlite_path(uri: str) -> Path | None:
    """The file that an SQLite URI names, or None for any other URI."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri) if uri.endswith(".db") else None
    return Path(rest[1:]) if scheme == "sqlite" and rest.startswith("/") and rest != "/" else None


def is_new_file(uri: str) -> bool:
    """Whether a URI names an SQLite file that is not there yet, which `open_gallery` would make."""
    file = sqlite_path(uri)
    return file is not None and not file.exists()


def milvus_address(uri: str) -> tuple[str, str, str]:
    """What pymilvus calls the address, the database ("" for the default) and the URI to show. Raises GalleryError."""
    try:
        parts: SplitResult = urlsplit(uri)
        host, port = parts.hostname, parts.port or MILVUS_PORT
    except ValueError as error:
        raise GalleryError(f"a gallery's URI must be {FORMS}, but a part of it can't be read: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise GalleryError(
            "a gallery's URI must hold no user and no password, which others could read in the list of processes; "
            "put them into EDGE_STRA_MILVUS_USER and EDGE_STRA_MILVUS_PASSWORD, or EDGE_STRA_MILVUS_TOKEN"
        )
    database = parts.path.strip("/")
    if not host or parts.query or parts.fragment or "/" in database:
        raise GalleryError(f"a gallery's URI must be {FORMS}, but is {uri!r}")
    host = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{host}:{port}" + (f"/{database}" if database else "")
    return f"{'https' if parts.scheme == 'milvuss' else 'http'}://{host}:{port}", database, shown


def milvus_credentials() -> dict[str, str]:
    """What pymilvus takes, from the environment; empty for a server without accounts."""
    if token := os.environ.get("EDGE_STRA_MILVUS_TOKEN"):
        return {"token": token}
    user, password = (os.environ.get(f"EDGE_STRA_MILVUS_{name}", "") for name in ("USER", "PASSWORD"))
    return {"user": user, "password": password} if user else {}


def same_place(first: str, second: str) -> bool:
    """Whether two URIs name one gallery, however they are written; never for what is no gallery's."""

    def place(uri: str) -> str | None:
        if (file := sqlite_path(uri)) is not None:
            return str(file.resolve())
        if uri.partition("://")[0] in ("milvus", "milvuss"):
            return milvus_address(uri)[2].partition("://")[2].removesuffix("/default")
        return None

    named = place(first)
    return named is not None and named == place(second)
