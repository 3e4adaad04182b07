"""The detectors that the demos use: where they come from, and how their files reach the user's cache.

A file counts only with its pinned SHA-256, whether it was downloaded, copied, or lay there already.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edge_stra.spec import ArtifactError, DataError, MissingError, OutputError

HOST = "https://raw.githubusercontent.com"
TIMEOUT_S = 20.0  # without a byte
BLOCK_BYTES = 1 << 16

Progress = Callable[[int], None]  # is told of each so many bytes more


@dataclass(frozen=True)
class PulledModel:
    """One detector's file: of which project, at which commit, and what it must be. variable: names another place."""

    file: str
    repository: str
    commit: str
    path: str
    sha256: str
    size_bytes: int
    licence: str
    variable: str

    @property
    def url_path(self) -> str:
        return f"{self.repository}/{self.commit}/{self.path}"

    @property
    def source(self) -> str:
        return f"https://github.com/{self.repository}, commit {self.commit[:12]}"


MODELS = {
    "yunet": PulledModel(
        file="yunet_n_320_320.onnx",
        repository="ShiqiYu/libfacedetection.train",
        commit="0047ac24afb1a50a0c6105001c89d1b5b805dbf1",
        path="onnx/yunet_n_320_320.onnx",
        sha256="81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2",
        size_bytes=317434,
        licence="Apache-2.0",
        variable="EDGE_STRA_YUNET",
    ),
    "fastestdet": PulledModel(
        file="FastestDet.onnx",
        repository="dog-qiuqiu/FastestDet",
        commit="50473cd155cb088aa4a99e64ff6a4b3c24fa07e1",
        path="example/onnx-runtime/FastestDet.onnx",
        sha256="31cb14c017fce347cb4c846ec62fdf00d76bb3beecdf4be21e7116ac67feb880",
        size_bytes=998169,
        licence="BSD-3-Clause",
        variable="EDGE_STRA_FASTESTDET",
    ),
}


def cache_folder() -> Path:
    """Where pulled files lie for this user: $XDG_CACHE_HOME or ~/.cache, then edge-stra."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-stra"


def model_named(name: str) -> PulledModel:
    if name not in MODELS:
        raise DataError(f"a model to pull must be {' or '.join(MODELS)}, but is {name!r}; choose one of them")
    return MODELS[name]


def find_pulled(name: str, given: Path | None = None) -> Path | None:
    """The given path, else the one in the model's variable, else the user's cache; None where none of them has it.

    Raises MissingError where a named file is absent.
    """
    model = model_named(name)
    named = given or (Path(value) if (value := os.environ.get(model.variable)) else None)
    if named is None:
        return cached if (cached := cache_folder() / model.file).is_file() else None
    if not named.is_file():
        raise MissingError(
            f"{named} ({'the given path' if given else model.variable}) must be {model.file}, but there is no such "
            "file; correct it or leave it out"
        )
    return named


def read_pulled(name: str, path: Path) -> bytes:
    """The verified bytes of a file, read once, so that what is hashed is what is run. Raises ArtifactError."""
    model = model_named(name)
    try:
        with path.open("rb") as file:
            data = file.read(model.size_bytes + 1)
    except OSError as error:
        raise ArtifactError(f"{path} must be {model.file}, but can't be read: {error.strerror or error}") from error
    check_bytes(name, data, str(path))
    return data


def check_bytes(name: str, data: bytes, origin: str) -> None:
    """Raises ArtifactError where the bytes are not those that the table names."""
    model = model_named(name)
    digest = hashlib.sha256(data).hexdigest()
    if digest != model.sha256:
        came = f"SHA-256 {digest[:12]}..." if len(data) == model.size_bytes else "another size"
        raise ArtifactError(
            f"{origin} must be {model.file} of {model.size_bytes} bytes with SHA-256 {model.sha256[:12]}..., but has "
            f"{came}; fetch it again with `edge-stra models pull {name}`"
        )


def pull(
    name: str,
    folder: Path | None = None,
    source: Path | None = None,
    progress: Progress | None = None,
    opener: Any = None,
    base: str = HOST,
) -> dict[str, Any]:
    """Brings a model's file into a folder, the user's cache by default, and says what was done, JSON-ready.

    With `source` from a file instead of the network. `opener` and `base` are for tests; users get https alone.
    Raises ArtifactError where the bytes are others than the pinned ones (nothing of them is kept), MissingError where
    the network fails (what has come is kept, and the next call goes on from there), OutputError.
    """
    from edge_stra.artifact import check_output, write_atomically

    model = model_named(name)
    path = (folder or cache_folder()) / model.file
    report = {"name": name, "path": str(path), "sha256": model.sha256, "licence": model.licence, "from": model.source}
    if is_right(path, model):
        return report | {"done": "already there"}
    check_output(path, overwrite=True)
    if source is not None:
        write_atomically(path, read_pulled(name, source))
        return report | {"done": "copied", "from": str(source)}
    part = path.with_name(path.name + ".part")
    download(name, part, opener or https_opener(), f"{base}/{model.url_path}", progress or (lambda count: None))
    try:
        data = part.read_bytes()
        check_bytes(name, data, "what came")
        write_atomically(path, data)
    finally:
        part.unlink(missing_ok=True)
    return report | {"done": "downloaded"}


def is_right(path: Path, model: PulledModel) -> bool:
    if not path.is_file() or path.stat().st_size != model.size_bytes:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256


def download(name: str, part: Path, opener: Any, url: str, progress: Progress) -> None:
    """Appends to `part` what it lacks of the model's size. Raises MissingError, ArtifactError, OutputError."""
    import http.client
    import urllib.error
    import urllib.request

    size = model_named(name).size_bytes
    have = part.stat().st_size if part.is_file() else 0
    if have >= size:
        progress(size)
        return  # whole, or too much: the hash tells
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            # A server may answer a range with the whole (200), or with another part than was asked for.
            resumes = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if answer.status == 206 and not resumes:
                part.unlink(missing_ok=True)
                raise MissingError(f"{url} must go on from byte {have}, but sent another part; run it again")
            have = have if resumes else 0
            progress(have)
            with open_part(part, "ab" if resumes else "wb") as file:
                have += append(file, answer, size - have + 1, progress)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or error
        raise MissingError(
            f"{url} can't be downloaded: {reason}; run it again to go on, or fetch it elsewhere and give --from FILE"
        ) from error
    if have > size:
        part.unlink(missing_ok=True)
        raise ArtifactError(f"{url} must have {size} bytes, but sends more; refused")
    if have < size:
        raise MissingError(f"{url} broke off after {have} of {size} bytes; run it again to go on from there")


def open_part(part: Path, mode: str) -> IO[bytes]:
    try:
        return part.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise OutputError(f"{part} can't be written: {error.strerror or error}") from error


def append(file: IO[bytes], answer: Any, most: int, progress: Progress) -> int:
    """Copies at most `most` bytes, and returns how many. Raises OutputError where the disk is full."""
    count = 0
    while count < most and (block := answer.read(min(BLOCK_BYTES, most - count))):
        try:
            file.write(block)
            file.flush()
        except OSError as error:
            raise OutputError(f"{file.name} can't be written: {error.strerror or error}") from error
        count += len(block)
        progress(len(block))
    return count


def https_opener() -> Any:
    """An opener that follows redirects to https alone, and takes proxies from the environment."""
    import urllib.error
    import urllib.request

    class HttpsOnly(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.lower().startswith("https://"):
                fp.close()
                raise urllib.error.URLError(f"redirected to {newurl[:80]}, which is not https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return urllib.request.build_opener(HttpsOnly)
