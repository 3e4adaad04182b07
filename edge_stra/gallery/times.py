"""Ages and times as people write them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from edge_stra.gallery.checks import check_time
from edge_stra.spec import DataError

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_age(text: str) -> float:
    """An age such as 30d, in seconds. Raises DataError."""
    match = re.fullmatch(r"([0-9]{1,6})([mhdw])", text.strip())
    if match is None:
        raise DataError(f"an age must be a whole number with m, h, d or w, like 30d, but is {text!r}")
    return float(int(match[1]) * UNITS_S[match[2]])


def parse_time(text: str) -> float:
    """An ISO 8601 time, of this machine's zone where it names none, in seconds since 1970. Raises DataError."""
    try:
        time_s = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise DataError(f"a time must be like 2026-11-21T10:00, but is {text!r}") from error
    check_time(time_s)
    if time_s > time.time() + UNITS_S["d"]:  # `purge` would not remove it for so long
        raise DataError(f"a time must not be more than a day ahead, but {text!r} is")
    return time_s
