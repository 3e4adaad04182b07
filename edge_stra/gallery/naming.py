"""Who somebody is, by the matches of a search: the nearest within a threshold, or nobody known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edge_stra.gallery.checks import check_threshold
from edge_stra.gallery.store import Gallery, Match

DEFAULT_THRESHOLD = 0.6  # where neither the user nor `gallery calibrate` gave one; its basis is in docs/gallery.md


def effective_threshold(gallery: Gallery, given: float | None) -> tuple[float, str]:
    """The threshold to use and where it is from: "given", "gallery" or "default". Raises DataError outside 0 to 2."""
    if given is not None:
        check_threshold(given)
        return given, "given"
    kept = gallery.threshold()
    return (DEFAULT_THRESHOLD, "default") if kept is None else (kept, "gallery")


def nearest_known(matches: Sequence[Match], threshold: float) -> Match | None:
    """The nearest match where its distance is at most the threshold; None is the answer "unknown"."""
    return matches[0] if matches and matches[0].distance <= threshold else None


def largest_number(names: Iterable[str], prefix: str) -> int:
    """The largest N of names `prefix` + N, at most nine digits; 0 where there is none."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})")
    return max((int(found[1]) for name in names if (found := pattern.fullmatch(name))), default=0)
