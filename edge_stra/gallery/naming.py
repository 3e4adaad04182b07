"""Who somebody is by the matches of a search, the nearest within a threshold or nobody, and names for new people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edge_stra.gallery.checks import check_threshold
from edge_stra.gallery.store import Gallery, Match

DEFAULT_THRESHOLD = 0.6  # where neither the user nor `gallery calibrate` gave one; its basis is in docs/gallery.md
MAX_WORD = 60  # characters of a camera's or site's name in a person's: a gallery takes no endless names


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


def name_prefix(camera: str, site: str) -> str:
    """Of person-0001 and so on; with site and camera in it where they are known.

    Two cameras that share a gallery then never give one name to two people.
    """
    words = [re.sub(r"[^\w.]+", "-", word).strip("-")[:MAX_WORD] for word in (site, camera)]
    return "-".join(["person", *(word for word in words if word)]) + "-"
