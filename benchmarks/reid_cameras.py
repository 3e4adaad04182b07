"""People seen again by other cameras: Market-1501's training identities replayed as a six-camera stream.

    python benchmarks/reid_cameras.py out/mobilenetv2_stra.reid.int8.tflite --data MARKET/bounding_box_train
    python benchmarks/reid_cameras.py OSNET.onnx --peer --data MARKET/...

Half of the identities calibrate the threshold, as `edge-stra gallery calibrate` does it for a gallery of as many
people as will be enrolled. Of the other half every
second one is enrolled, with a few crops from the first camera that saw them; the rest are strangers. Then the crops
of all other cameras (of strangers: of all cameras) pass in the order of time through what `edge-stra demo reid` does
with a track: embeddings averaged, a search for each, the rule that names. A track is one identity in one camera, until
it was away for --away seconds. What a track is called at its end counts.

The shipped re-identification weights were trained on these very identities: their figures say how the app behaves with
a model that knows its people's looks well, not how good the model is on people it never saw. --peer runs OSNet x0.25
trained on MSMT17, which never saw Market-1501, through the same: a lower line.

Detection is not part of it: these crops are what a detector and a person's hand made. A gallery is any that
`--gallery` takes, an sqlite file in a temporary folder by default.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import sha256_of
from edge_stra.data import spread_indices
from edge_stra.embeddings import unit_rows
from edge_stra.evaluation.subjects import open_subject
from edge_stra.gallery.open import open_gallery
from edge_stra.gallery.pairs import calibrate, count_pairs, run_searches, share
from edge_stra.gallery.store import Entry, Gallery, Maker
from edge_stra.identities import DISTRACTOR, Crops, list_crops
from edge_stra.live.sightings import Sighting
from edge_stra.spec import DataError
from edge_stra.views.people import MATCHES

FRAME_NAME = re.compile(r"_c\ds(\d+)_(\d+)_")
FPS = 25.0  # of Market-1501's cameras; each sequence has a clock of its own
TRAINED_ON = (
    "NOTE: the shipped weights were trained on all 751 identities of this set, also those called unknown here. "
    "These figures flatter the model; on people it never saw, expect less."
)
PEER_NOTE = "OSNet x0.25 of MSMT17 never saw Market-1501: what another set's model gives without any training here."


def embeddings_of(args: argparse.Namespace, paths: list[Path]) -> tuple[NDArray[np.float32], str]:
    """Embeddings [N, K] and the model's SHA-256; kept in --cache by that and the pictures' names."""
    digest = sha256_of(args.artifact)
    cached = args.cache / f"{digest[:16]}_{len(paths)}.npz" if args.cache else None
    names = np.array([path.name for path in paths])
    if cached is not None and cached.is_file():
        with np.load(cached, allow_pickle=False) as kept:
            if (kept["names"] == names).all():
                return kept["embeddings"], digest
    if args.peer:
        from peers_accuracy import osnet

        subject = osnet(args.artifact, args.threads)
    else:
        subject = open_subject(str(args.artifact), threads=args.threads)
    print(f"embedding {len(paths)} crops", file=sys.stderr)
    embeddings = subject.embed(paths)
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cached, embeddings=embeddings, names=names)
    return embeddings, digest


def times_of(paths: list[Path]) -> NDArray[np.float64]:
    """Seconds of each crop, one sequence after the other. Raises DataError for a name without sequence and frame."""
    matches = [FRAME_NAME.search(path.name) for path in paths]
    if None in matches:
        odd = paths[matches.index(None)].name
        raise DataError(f"crops must be named like 0002_c1s1_000451_03.jpg, but one is named {odd}")
    # A day between two sequences: none of them is a continuation of the other.
    return np.array([86400.0 * int(m[1]) + int(m[2]) / FPS for m in matches if m])


def split(identities: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Identities for calibration, enrolled ones and strangers: a half and two quarters."""
    drawn = np.random.default_rng(seed).permutation(np.unique(identities[identities > DISTRACTOR]))
    replayed = drawn[len(drawn) // 2 :]
    return drawn[: len(drawn) // 2], replayed[::2], replayed[1::2]


def enrolment(crops: Crops, enrolled: NDArray[np.int64], times_s: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Which crops are enrolled: of each identity a few, spread over those of the camera that saw it first."""
    chosen = []
    for identity in enrolled:
        own = np.flatnonzero(crops.identities == identity)
        first = crops.cameras[own[times_s[own].argmin()]]
        from_first = own[crops.cameras[own] == first]
        in_time = from_first[np.argsort(times_s[from_first])]
        chosen.append(in_time[spread_indices(len(in_time), most)])
    return np.concatenate(chosen)


def tracks_of(crops: Crops, replayed: NDArray[np.int64], times_s: NDArray[np.float64], away_s: float) -> list[Any]:
    """Lists of crops, each of one identity in one camera without a gap, by when they begin."""
    tracks: list[list[int]] = []
    for index in sorted(replayed, key=lambda i: (crops.cameras[i], crops.identities[i], times_s[i])):
        last = tracks[-1][-1] if tracks else None
        same = last is not None and (crops.cameras[last], crops.identities[last]) == (
            crops.cameras[index],
            crops.identities[index],
        )
        if same and times_s[index] - times_s[last] <= away_s:
            tracks[-1].append(index)
        else:
            tracks.append([index])
    return sorted(tracks, key=lambda track: times_s[track[0]])


def follow(gallery: Gallery, unit: NDArray[np.float32], thresholds: list[float]) -> tuple[str, list[str | None]]:
    """The nearest identity to a track [n, K] at its end, and what the app calls it at each threshold."""
    sightings = [Sighting() for _ in thresholds]
    rows = [*unit, unit[-1]]  # a camera sees the last of them for more than one frame, so one crop can be confirmed
    for number, row in enumerate(rows):
        sightings[0].see(row.astype(np.float64), float(number), 1)
        matches = gallery.search(sightings[0].mean(), k=MATCHES)
        for sighting, threshold in zip(sightings, thresholds, strict=True):
            sighting.found(matches)
            sighting.identity = sighting.wanted(threshold)
    return matches[0].identity, [sighting.identity for sighting in sightings]


def replay(
    args: argparse.Namespace, unit: NDArray[np.float32], crops: Crops, digest: str, uri: str, thresholds: list[float]
) -> dict[str, Any]:
    """The whole stream through the gallery; shares of tracks at each threshold."""
    times_s = times_of(crops.paths)
    _, enrolled, strangers = split(crops.identities, args.seed)
    kept = enrolment(crops, enrolled, times_s, args.enrol)
    # Who was enrolled is replayed from the other cameras; strangers from all.
    camera_of = dict(zip(crops.identities[kept].tolist(), crops.cameras[kept].tolist(), strict=True))
    away = np.array([camera_of.get(i, -1) != c for i, c in zip(crops.identities, crops.cameras, strict=True)])
    replayed = np.flatnonzero(np.isin(crops.identities, np.concatenate([enrolled, strangers])) & away)
    gallery = open_gallery(uri, Maker(digest, unit.shape[1], args.artifact.stem))
    try:
        gallery.add([Entry(f"{crops.identities[i]:04d}", unit[i], f"c{crops.cameras[i]}", times_s[i]) for i in kept])
        tracks = tracks_of(crops, replayed, times_s, args.away)
        answers = [follow(gallery, unit[track], thresholds) for track in tracks]
    finally:
        gallery.close()
    truth = [f"{crops.identities[track[0]]:04d}" for track in tracks]
    known = np.isin([crops.identities[track[0]] for track in tracks], enrolled)
    rank1 = np.array([nearest == name for (nearest, _), name in zip(answers, truth, strict=True)])
    rows = []
    for column, threshold in enumerate(thresholds):
        names = [given[column] for _, given in answers]
        right = np.array([a == b for a, b in zip(names, truth, strict=True)])
        named = np.array([name is not None for name in names])
        rows.append(
            {
                "threshold": threshold,
                "named_rightly": share(right[known]),
                "named_wrongly": share((named & ~right)[known]),
                "false_rejects": share(~named[known]),
                "false_accepts": share(named[~known]),
            }
        )
    return {
        "enrolled": len(enrolled),
        "strangers": len(strangers),
        "embeddings": len(kept),
        "tracks": len(tracks),
        "crops": len(replayed),
        "rank1": share(rank1[known]),
        "rows": rows,
    }


def words(part: dict[str, Any]) -> str:
    return (
        f"{100 * part['share']:5.1f} % ({part['count']}/{part['of']}, {100 * part['low']:.1f} to "
        f"{100 * part['high']:.1f})"
    )


def render(report: dict[str, Any]) -> str:
    r = report["replay"]
    lines = [
        f"{report['artifact']}: threshold from {report['calibration_people']} people; {r['enrolled']} others enrolled "
        f"({r['embeddings']} embeddings, one camera each), {r['strangers']} strangers",
        f"{r['tracks']} tracks of {r['crops']} crops from six cameras; shares of tracks, counts, 95 % intervals",
        f"rank-1 among enrolled: {words(r['rank1'])}",
    ]
    for wanted, row in zip(report["wanted"], r["rows"], strict=True):
        lines += [
            f"threshold {row['threshold']:.4f} (calibrated for {100 * wanted:g} % false accepts)",
            f"  enrolled: named rightly {words(row['named_rightly'])}",
            f"            named wrongly {words(row['named_wrongly'])}",
            f"            not named     {words(row['false_rejects'])}",
            f"  strangers given a name  {words(row['false_accepts'])}",
        ]
    return "\n".join([*lines, report["note"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="Market-1501's bounding_box_train")
    parser.add_argument("--peer", action="store_true", help="the artifact is OSNet's .onnx file")
    parser.add_argument("--false-accepts", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    parser.add_argument("--enrol", type=int, default=5, help="crops of each identity that is enrolled")
    parser.add_argument("--away", type=float, default=10.0, help="seconds after which a track is over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gallery", help="an empty one; an sqlite file in a temporary folder by default")
    parser.add_argument("--cache", type=Path, help="folder to keep embeddings in")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    crops = list_crops(args.data)
    embeddings, digest = embeddings_of(args, crops.paths)
    unit = unit_rows(embeddings)
    calibrating, enrolled, _ = split(crops.identities, args.seed)
    mine = np.isin(crops.identities, calibrating)
    labels = (unit[mine], crops.identities[mine], crops.cameras[mine])
    pairs, searches = count_pairs(*labels), run_searches(*labels, people=min(len(enrolled), len(calibrating)))
    chosen = [calibrate(pairs, searches, wanted) for wanted in args.false_accepts]
    with tempfile.TemporaryDirectory() as folder:
        uri = args.gallery or f"sqlite:///{folder}/replay.db"
        found = replay(args, unit, crops, digest, uri, [c["threshold"] for c in chosen])
    report = {
        "artifact": args.artifact.name,
        "calibration_people": len(calibrating),
        "wanted": args.false_accepts,
        "calibration": chosen,
        "replay": found,
        "note": PEER_NOTE if args.peer else TRAINED_ON,
    }
    print(json.dumps(report, indent=1) if args.json else render(report))


if __name__ == "__main__":
    main()
