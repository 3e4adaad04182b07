"""Standard output and error kept quiet: converters' progress lines, and what can't be written (any more)."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from urllib.parse import unquote

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tabs and line breaks


@contextlib.contextmanager
def quiet_tools() -> Iterator[None]:
    """Silences standard output and error, of native code too, third-party warnings and logging below ERROR.

    Of the whole process, other threads included, until it is left.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # A service may run without a console: then there is no stream, and its number may be another file's by now.
    open_ones = [number for number, stream in ((1, sys.__stdout__), (2, sys.__stderr__)) if stream is not None]
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    kept = {number: os.dup(number) for number in open_ones}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    disabled = logging.root.manager.disable  # of the caller, who may have set more
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as sink:
            warnings.simplefilter("ignore")
            for number in kept:
                os.dup2(nowhere, number)
            with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
                yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
        for handle in (*kept.values(), nowhere):
            os.close(handle)
        logging.disable(disabled)


def discard_standard_output() -> None:
    """What is left in its buffer goes nowhere: else Python tries again at its exit, and complains."""
    with contextlib.suppress(OSError, ValueError):  # not a file of the system, as under a test runner
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file name that are none come as backslashes, like `caf\\udce9.jpg`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def without_secret(text: str) -> str:
    """What somebody typed where a URL may be meant: without user and password, and parts like password=b.

    A file's name that has an @ in it stays as it is.
    """
    if not re.match(r"(?:[a-zA-Z]+:|[^/]*:[^/]*@)", text):
        return text
    _, at, rest = text.rpartition("@")
    return ("...@" if at else "") + without_pairs(rest)


def without_pairs(path: str) -> str:
    """A URL's path without parts like user=a&password=b, which some cameras have there."""
    return "/".join("..." if set("=@") & set(unquote(part)) else part for part in path.split("/"))


def printable(text: str) -> str:
    """Encodable lines that a terminal only shows: a mark for each control character but line breaks and tabs.

    Joiners and spaces of other scripts stay: people's names have them.
    """
    return CONTROL.sub("\ufffd", encodable(text))


def shown(text: str) -> str:
    """A word of a file for people: a mark for each character that can't be shown, line breaks too."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
