"""How fast a gallery is: adding, searching, opening, forgetting, memory and size, at 1,000 to 100,000 embeddings.

    python benchmarks/gallery.py [--gallery URI] [--count 100000]

The embeddings are drawn in clusters, as identities are: 20 of each person, 0.6 apart in the median (what
mobilenetv2_stra.reid gives people of Market-1501 across cameras), and of different people 1.4. The URI must name a
gallery that is not there yet; default: an SQLite file in a temporary folder. One BLAS thread. `product` is numpy's
matrix times vector alone, in turns with the searches: below it no exact scan can come.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.gallery.open import open_gallery
from edge_stra.gallery.store import Entry, Gallery, Maker

DIMENSION, EACH, SPREAD = 512, 20, 0.47
SINGLE, BATCH, SEARCHES, K = 200, 100, 200, 5
MAKER = Maker("0" * 64, DIMENSION, "benchmark")


def draw(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings [count, 512] of length 1, EACH of one person after another."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((-(-count // EACH), DIMENSION), np.float32))
    noise = unit(rng.standard_normal((count, DIMENSION), np.float32))
    return unit(np.repeat(centres, EACH, axis=0)[:count] + SPREAD * noise)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def entries(rows: NDArray[np.float32], first: int) -> list[Entry]:
    return [
        Entry(f"person {(first + i) // EACH}", row, str(i % 6), float(first + i), "site") for i, row in enumerate(rows)
    ]


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(work: Callable[[], Any]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def fill(gallery: Gallery, rows: NDArray[np.float32], start: int, stop: int, size: int) -> float:
    """Adds rows in batches; returns embeddings a second. Drawing and wrapping them is not counted."""
    spent_ms = 0.0
    for first in range(start, stop, size):
        batch = entries(rows[first : min(first + size, stop)], first)
        spent_ms += timed(lambda batch=batch: gallery.add(batch))  # type: ignore[misc]
    return 1000 * (stop - start) / spent_ms


def measure(uri: str, rows: NDArray[np.float32], count: int, files: Path | None) -> dict[str, Any]:
    """One row of the table: the gallery is opened anew, as an app would."""
    before_mb = rss_mb()
    opened: list[Gallery] = []
    open_ms = timed(lambda: opened.append(open_gallery(uri, None)))
    (gallery,) = opened
    rng = np.random.default_rng(1)
    queries = unit(
        rows[rng.integers(0, count, SEARCHES)] + SPREAD * unit(rng.standard_normal((SEARCHES, DIMENSION), np.float32))
    )
    first_ms = timed(lambda: gallery.search(queries[0], K))
    spent_ms, product_ms = [], []
    for query in queries:
        spent_ms.append(timed(lambda q=query: gallery.search(q, K)))  # type: ignore[misc]
        product_ms.append(timed(lambda q=query: rows[:count] @ q))  # type: ignore[misc]
    # Of the K nearest, how many are as near as the K-th of an exact scan; 1e-3 allows for rounding.
    kth = [float(np.sqrt(2 - 2 * np.partition(rows[:count] @ q, count - K)[count - K])) for q in queries]
    found = [
        sum(m.distance <= limit + 1e-3 for m in gallery.search(q, K)) for q, limit in zip(queries, kth, strict=True)
    ]
    row = {
        "embeddings": gallery.count(), "open_ms": open_ms, "first_search_ms": first_ms,
        "p50_ms": float(np.percentile(spent_ms, 50)), "p90_ms": float(np.percentile(spent_ms, 90)),
        "product_ms": float(np.median(product_ms)),
        "recall": float(np.mean(found)) / K,
        "added_rss_mb": rss_mb() - before_mb,
        "file_mb": sum(p.stat().st_size for p in files.iterdir()) / 1e6 if files else float("nan"),
    }  # fmt: skip
    gallery.close()
    return row


def conditions() -> str:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        cpu = f"{len(names)} x {names[0]}" if names else cpu
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}; Python {platform.python_version()}, numpy {np.__version__}, one BLAS thread{load}"


def run(uri: str, total: int, files: Path | None) -> None:
    print(f"{uri.partition('://')[0]}; {conditions()}")
    rows = draw(total)
    gallery = open_gallery(uri, MAKER)
    if gallery.count():
        raise SystemExit(f"{uri} must be empty, but holds {gallery.count()} embeddings")
    singles = fill(gallery, rows, 0, SINGLE, 1)
    print(f"add one by one: {singles:.0f} a second ({SINGLE} adds)")
    done, table, batches, last = SINGLE, [], 0.0, 0
    for count in [*(n for n in (1000, 10_000, 100_000) if n < total), total]:
        batches, last = fill(gallery, rows, done, count, BATCH), count - done
        gallery.close()
        table.append(measure(uri, rows, count, files))
        gallery, done = open_gallery(uri, None), count
    print(f"add in batches of {BATCH}: {batches:.0f} embeddings a second (the last {last})")
    names = ("embeddings", "open_ms", "first_search_ms", "p50_ms", "p90_ms", "product_ms", "recall", "added_rss_mb",
             "file_mb")  # fmt: skip
    print("  ".join(names))
    for row in table:
        print("  ".join(f"{row[name]:>{len(name)}.{3 if name == 'recall' else 1}f}" for name in names))
    forget_ms = timed(lambda: gallery.forget("person 7"))
    print(f"forget one of {total // EACH} people: {forget_ms:.0f} ms; at the end: {conditions().rpartition(', ')[2]}")
    gallery.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", help="URI of a gallery that is not there yet")
    parser.add_argument("--count", type=int, default=100_000, help=f"embeddings, more than {SINGLE}")
    given = parser.parse_args()
    if given.count <= SINGLE:
        parser.error(f"--count must be more than {SINGLE}, but is {given.count}")
    if given.gallery:
        run(given.gallery, given.count, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(f"sqlite:///{folder}/gallery.db", given.count, Path(folder))


if __name__ == "__main__":
    main()
