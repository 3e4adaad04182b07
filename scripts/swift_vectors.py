#!/usr/bin/env python
"""swift_vectors [FOLDER]: what Python computes, as JSON that the Swift package's tests must meet.

Every expected value comes from the functions that the apps and the evaluation run, but those of the gallery, which is
Swift's own: `nearest` here says what it must give. tests/test_swift.py makes the files anew and compares. Large
pictures are named by a pattern that both sides draw, and by a hash of the result.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from edge_stra.apps.detect import crop_with_margin
from edge_stra.apps.placement import clipped
from edge_stra.apps.reid import distance
from edge_stra.apps.smoothing import GAP_S, TAU_S, Smoothed, smooth
from numpy.typing import NDArray

from edge_stra.artifact import inner_spec, parse_inner
from edge_stra.evaluation.ranking import rank
from edge_stra.identities import Crops
from edge_stra.preprocess import resize_exact, softmax, to_input
from edge_stra.spec import FER_LABELS, ArtifactError, DataError, InputSpec, ModelSpec

FOLDER = Path(__file__).resolve().parents[1] / "swift/EdgeStRA/Tests/EdgeStRACoreTests/Vectors"
INLINE_BYTES = 2048  # larger results are named by their hash alone
MIN_GAP = 1e-4  # between a distance and a threshold, so that no rounding decides


def pattern(height: int, width: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Slow and fast waves and their aliases, in integers alone, so that Swift draws the same: [h, w, c]."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels].astype(np.int64)
    slow = 5 * y * y + 3 * x * x + 7 * x * y + c * (640 + 97 * x + 231 * y) + 977 * seed
    values = slow // 16 + (x * (seed + 3) + y * 11) % 23
    drawn: NDArray[np.uint8] = (values % 256).astype(np.uint8)
    return drawn


def fnv1a(data: bytes) -> str:
    """The 64-bit Fowler-Noll-Vo hash, variant 1a: ten lines in any language, and no secret depends on it."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


def held(pixels: NDArray[Any]) -> dict[str, Any]:
    """A picture's size and hash, and its bytes where they are few."""
    data = pixels.tobytes()
    shape = {"height": pixels.shape[0], "width": pixels.shape[1], "fnv1a": fnv1a(data)}
    return shape | ({"base64": base64.b64encode(data).decode()} if len(data) <= INLINE_BYTES else {})


def floats(array: NDArray[Any]) -> list[float]:
    return [float(v) for v in array.ravel()]


def refused(function: Callable[..., Any], *arguments: Any) -> bool:
    try:
        function(*arguments)
    except (DataError, ArtifactError):
        return True
    return False


def preprocessing() -> dict[str, Any]:
    resizes = []
    sizes = [(48, 48, 88, 88), (88, 88, 88, 88), (175, 176, 88, 88), (176, 176, 88, 88), (177, 180, 88, 88),
             (400, 381, 88, 88), (360, 270, 88, 88), (1, 1, 8, 8), (1, 40, 12, 9), (40, 1, 9, 12), (2, 3, 31, 17),
             (128, 64, 256, 128), (300, 117, 256, 128), (520, 261, 256, 128), (203, 399, 20, 24)]  # fmt: skip
    for seed, (height, width, *target) in enumerate(sizes):
        for channels in (1, 3):
            picture = pattern(height, width, channels, seed)
            resized = resize_exact(picture if channels == 3 else picture[:, :, 0], (target[0], target[1]))
            source = {"height": height, "width": width, "channels": channels, "seed": seed}
            resizes.append({"source": source, "result": held(resized)})
    colours = pattern(128, 128, 3, 5)  # enough that one unit of one weight shows
    tensors = []
    specs = (
        InputSpec((8, 8), "grey"),
        InputSpec((8, 10), "rgb"),
        InputSpec((9, 8), "rgb", (0.0, 0.5, 1.0), (1, 0.5, 2)),
    )
    for seed, spec in enumerate(specs):
        source = {"height": 23, "width": 30, "channels": 3, "seed": seed}
        values = floats(to_input(pattern(*source.values()), spec))
        tensors.append(
            {"source": source, "input": ModelSpec("", "", spec, (), "logits").to_json()["input"], "values": values}
        )
    return {
        "tolerance": 0,
        "resize_exact": resizes,
        "grey": {"source": {"height": 128, "width": 128, "channels": 3, "seed": 5},
                 "result": held(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))},
        "to_input": tensors,
    }  # fmt: skip


@cache
def places(height: int, width: int) -> NDArray[np.uint8]:
    """A picture whose every pixel says its own row and column, [h, w, 3], up to 4096 x 4096."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y & 255, x & 255, (y >> 8) << 4 | x >> 8], axis=2).astype(np.uint8)


def square_case(size_hw: tuple[int, int], box: tuple[int, int, int, int], margin: float) -> dict[str, Any]:
    case: dict[str, Any] = {"size_hw": list(size_hw), "box_xywh": list(box), "margin": margin}
    try:
        crop = crop_with_margin(places(*size_hw), box, margin).astype(int)
    except DataError:
        return case | {"refused": True}
    rows, columns = crop[:, 0, 0] | (crop[:, 0, 2] >> 4) << 8, crop[0, :, 1] | (crop[0, :, 2] & 15) << 8
    return case | {"refused": False, "rows": rows.tolist(), "columns": columns.tolist()}


def geometry() -> dict[str, Any]:
    boxes = [((48, 64), box) for box in ((10, 8, 20, 20), (10, 8, 21, 20), (10, 8, 20, 25), (0, 0, 64, 48),
             (-7, -5, 20, 18), (55, 40, 30, 11), (63, 47, 1, 1), (-19, 3, 20, 20), (-20, 3, 20, 20), (64, 3, 5, 5),
             (3, 48, 5, 5), (3, 3, 0, 5), (3, 3, 5, -1), (-40, -40, 150, 140))]  # fmt: skip
    boxes += [((1080, 1920), (1801, 951, 171, 190)), ((1100, 2100), (1990, 1033, 61, 90)), ((1, 1), (0, 0, 1, 1))]
    margins = (0.0, 0.25, -0.5, 0.3)
    squares = [square_case(size, box, margin) for size, box in boxes for margin in margins]
    squares += [square_case((48, 64), (10, 8, 20, 20), margin) for margin in (-1.0, 4.0, 4.1, -0.99)]
    insides = []
    for size, box in boxes:
        left, top, width, height = clipped(box, size)
        empty = min(box[2:]) < 1 or min(width, height) < 1
        inside = [left, top, width, height]
        insides.append({"size_hw": list(size), "box_xywh": list(box), "refused": empty, "inside_xywh": inside})
    return {"square": squares, "inside": insides}


def probabilities() -> dict[str, Any]:
    random = np.random.default_rng(0)
    rows = [random.normal(0, scale, 7).astype(np.float32) for scale in (0.1, 1, 5, 30)]
    rows += [
        np.array(row, np.float32) for row in ([1000, 1000, 0], [-1000, 0, 1000], [3.5], [0, 0, 0, 0], [-90, 0, 90])
    ]
    cases = [{"logits": floats(row), "probabilities": floats(softmax(row)), "top": int(row.argmax())} for row in rows]
    return {"tolerance": 1e-6, "softmax": cases}  # float32's exp is off by some units in the last place in numpy


def distances() -> dict[str, Any]:
    random = np.random.default_rng(1)
    pairs = [random.normal(size=(2, length)).astype(np.float32) for length in (1, 2, 5, 64)]
    base = random.normal(size=64).astype(np.float32)
    pairs += [np.stack([base, other]) for other in (base, -base, base * np.float32(3), base + np.float32(1e-3))]
    pairs += [np.array([[1, 0], [0, 1]], np.float32), np.array([[1e-30, 0], [1e30, 0]], np.float32)]
    cases = [{"a": floats(a), "b": floats(b), "distance": distance(a, b)} for a, b in pairs]
    bad = [([1.0, 0.0], [1.0]), ([0.0, 0.0], [1.0, 0.0]), ([1.0], [0.0])]
    for a, b in bad:
        assert refused(distance, np.array(a, np.float32), np.array(b, np.float32))
    # float64 sums of up to 64 squares, in another order
    return {"tolerance": 1e-12, "distance": cases, "refused": [{"a": a, "b": b} for a, b in bad]}


def smoothing() -> dict[str, Any]:
    random = np.random.default_rng(2)
    cases = []
    for tau_s, gap_s in ((TAU_S, GAP_S), (0.1, 0.3), (2.0, 5.0), (0.0, 1.0)):
        state: Smoothed | None = None
        steps, time_s = [], 100.0
        for passed in (0.0, 0.033, 0.033, 0.2, 0.0, 0.31, 1.0, 1.2, 0.5, 6.0, 0.1):
            time_s += passed
            row = softmax(random.normal(0, 2, 7).astype(np.float32)).astype(np.float64)
            state = smooth(state, row, time_s, tau_s, gap_s)
            steps.append({"time_s": time_s, "probabilities": floats(row), "smoothed": floats(state.probabilities)})
        cases.append({"tau_s": tau_s, "gap_s": gap_s, "steps": steps})
    known = Smoothed(np.array([0.5, 0.5]), 5.0)
    bad = [([0.5, 0.6], 5.0, 1.0, 1.0), ([1.5, -0.5], 5.0, 1.0, 1.0), ([], 5.0, 1.0, 1.0),
           ([0.2, 0.3, 0.5], 6.0, 1.0, 1.0), ([0.5, 0.5], 4.9, 1.0, 1.0), ([0.5, 0.5], 5.1, -1.0, 1.0),
           ([0.5, 0.5], 5.1, 1.0, -1.0)]  # fmt: skip
    for numbers, *times in bad:
        assert refused(smooth, known, np.array(numbers), *times)
    before = {"probabilities": floats(known.probabilities), "time_s": known.time_s}
    no = [{"state": before, "probabilities": p, "time_s": t, "tau_s": tau, "gap_s": gap} for p, t, tau, gap in bad]
    return {"tolerance": 1e-12, "tau_s": TAU_S, "gap_s": GAP_S, "smooth": cases, "refused": no}


def nearest(known: dict[str, list[NDArray[np.float32]]], asked: NDArray[np.float32]) -> list[tuple[str, float]]:
    """The gallery's reference: each identity with its nearest embedding's distance, nearest first, then by name."""
    found = [(name, min(distance(asked, one) for one in shown)) for name, shown in known.items()]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def gallery() -> dict[str, Any]:
    random = np.random.default_rng(3)
    length, names = 16, ["Ada", "ada", "Žofie", "Émile", "李", "bo 2"]
    centres = random.normal(size=(len(names), length))
    known = {name: [(centre + 0.4 * random.normal(size=length)).astype(np.float32) for _ in range(count)]
             for name, centre, count in zip(names, centres, (1, 3, 2, 1, 4, 2), strict=True)}  # fmt: skip
    known["twin of 李"] = [known["李"][2]]  # the same embedding under two names: the first name wins
    asked = [
        known["李"][2],
        -known["Ada"][0],
        *(c.astype(np.float32) for c in centres),
        *random.normal(size=(3, length)),
    ]
    queries = []
    for query in (np.asarray(q, np.float32) for q in asked):
        ranking = nearest(known, query)
        matches = [
            {"threshold": t, "name": ranking[0][0] if ranking[0][1] <= t else None} for t in (0.0, 0.5, 0.9, 2.0)
        ]
        assert all(abs(ranking[0][1] - t) > MIN_GAP for t in (0.5, 0.9))
        queries.append({"embedding": floats(query), "matches": matches,
                        "ranking": [{"name": name, "distance": far} for name, far in ranking]})  # fmt: skip
    people = [{"name": name, "embeddings": [floats(one) for one in shown]} for name, shown in known.items()]
    return {"tolerance": 1e-12, "dimension": length, "identities": people, "queries": queries}


def crop_rows(embeddings: NDArray[np.float32], crops: Crops) -> list[dict[str, Any]]:
    rows = zip(embeddings, crops.identities.tolist(), crops.cameras.tolist(), strict=True)
    return [{"embedding": floats(e), "identity": identity, "camera": camera} for e, identity, camera in rows]


def random_ranking(seed: int) -> tuple[NDArray[np.float32], Crops, NDArray[np.float32], Crops]:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(8, 6))

    def drawn(count: int, low: int) -> tuple[NDArray[np.float32], Crops]:
        crops = Crops([Path("x")] * count, random.integers(low, 7, count), random.integers(1, 5, count))
        wide = centres[crops.identities + 1] + random.normal(size=(count, 6))
        return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32), crops

    query, asked = drawn(8, 1)
    return query, asked, *drawn(40, -1)


def ranking() -> dict[str, Any]:
    def by_angle(*rows: tuple[float, int, int]) -> tuple[NDArray[np.float32], Crops]:
        angles, identities, cameras = (np.array(column) for column in zip(*rows, strict=True))
        radians = np.deg2rad(angles)
        vectors = np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)
        return vectors, Crops([Path("x")] * len(rows), identities, cameras)

    first = (0.0, 1, 1)
    by_hand = [
        ((first,), ((5, 1, 2), (10, 2, 1))),
        ((first,), ((5, 2, 1), (10, 1, 2))),
        ((first,), ((5, 1, 2), (5, 2, 1), (5, 3, 1), (5, 1, 3), (5, 0, 1))),  # ties never flatter
        ((first,), ((1, -1, 2), (2, 1, 1), (3, 0, 3), (4, 1, 2), (5, -1, 1), (6, 2, 1), (7, 1, 3))),
        ((first, (0, 2, 3), (0, 3, 1), (0, 4, 1)), ((1, 1, 2), (2, 2, 1), (3, 3, 1))),
    ]
    sets = [(*by_angle(*asked), *by_angle(*shown)) for asked, shown in by_hand]
    for seed in range(3):
        drawn = random_ranking(seed)
        likeness = np.sort(drawn[0].astype(np.float64) @ drawn[2].astype(np.float64).T, axis=1)
        assert np.diff(likeness, axis=1).min() > 1e-6, seed  # above float32's rounding: any summing order ranks alike
        sets.append(drawn)
    cases = [{"queries": crop_rows(q, asked), "gallery": crop_rows(g, shown), "report": rank(q, asked, g, shown)}
             for q, asked, g, shown in sets]  # fmt: skip
    bad = [((first,), ((1, 1, 1), (2, 2, 2))), (((0.0, 0, 2),), ((1, 1, 2),)), (((0.0, -1, 2),), ((1, 1, 2),))]
    no = []
    for asked, shown in bad:
        q, g = by_angle(*asked), by_angle(*shown)
        assert refused(rank, *q, *g)
        no.append({"queries": crop_rows(*q), "gallery": crop_rows(*g)})
    return {"tolerance": 1e-9, "rank": cases, "refused": no}


def specification() -> dict[str, Any]:
    fer = ModelSpec("mobilenetv2_stra.fer", "fer", InputSpec((88, 88), "grey"), FER_LABELS, "logits")
    reid = ModelSpec("mobilenetv2_stra.reid", "reid", InputSpec((256, 128), "rgb"), (), "embedding")
    good = [inner_spec(model, "coreml", quantize) | {"ios": 16} for model in (fer, reid) for quantize in ("fp16", "w8")]

    def changed(*path: str, value: Any = None) -> dict[str, Any]:
        copy = json.loads(json.dumps(good[0]))
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        if value is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return copy  # type: ignore[no-any-return]

    bad = [changed("format", value="edge-stra.artifact/9"), changed("format"), changed("quantize"), changed("model")]
    bad += [changed("model", key) for key in ("name", "task", "input", "labels", "output")]
    bad += [changed("model", "input", key) for key in ("size_hw", "color", "mean_rgb", "std_rgb")]
    bad += [changed("model", "output", value="words"), changed("model", "labels", value="anger"),
            changed("model", "input", "color", value="cmyk"), changed("model", "input", "size_hw", value=[88]),
            changed("model", "input", "size_hw", value=[7, 88]), changed("model", "input", "size_hw", value=[88, 4097]),
            changed("model", "input", "mean_rgb", value=[0.5, 0.5]),
            changed("model", "input", "std_rgb", value=[0.2, 0.0, 0.2])]  # fmt: skip
    for one in bad:
        assert refused(parse_inner, Path("x"), one), one
    accepted = [{"json": json.dumps(one), "model": one["model"], "quantize": one["quantize"]} for one in good]
    return {"accepted": accepted, "refused": [json.dumps(one) for one in bad]}


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {
    "preprocessing": preprocessing,
    "geometry": geometry,
    "probabilities": probabilities,
    "distances": distances,
    "smoothing": smoothing,
    "gallery": gallery,
    "ranking": ranking,
    "specification": specification,
}


def text_of(name: str) -> str:
    """One file's text, equal for equal sources: one line for each case, ASCII, full precision."""
    rows = []
    for key, value in VECTORS[name]().items():
        if isinstance(value, list):
            cases = ",\n".join("  " + json.dumps(case) for case in value)
            rows.append(f'"{key}": [\n{cases}\n]')
        else:
            rows.append(f'"{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(rows) + "\n}\n"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in VECTORS:
        (folder / f"{name}.json").write_text(text_of(name), "ascii")


if __name__ == "__main__":
    main()
