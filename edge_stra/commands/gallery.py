"""`edge-stra gallery`."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_stra.commands.common import FiniteRange, PathType, bar, emit, say, shipped_path
from edge_stra.spec import DataError, GalleryError

if TYPE_CHECKING:
    from edge_stra.gallery.pictures import Labelled
    from edge_stra.gallery.store import Match

VARIABLE = "EDGE_STRA_GALLERY"
MODEL = "mobilenetv2_stra.reid"
LEAST_ASPECT = 1.2  # height over width below which a picture can hardly be one standing person; Market-1501's have 2
uri_option = click.option(
    "--gallery", "uri", envvar=VARIABLE, show_envvar=True, default="sqlite:///gallery.db", show_default=True,
    help="sqlite:///FILE.db | sqlite:////FOLDER/FILE.db | milvus://HOST:19530[/DATABASE]",
)  # fmt: skip
model_option = click.option(
    "--model", "artifact", type=PathType, help="Re-identification artifact. [default: the shipped int8 model]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


@click.group()
def gallery() -> None:
    """Keep people's embeddings and find who somebody is.

    A gallery is a file (SQLite) or a Milvus server, named by --gallery. It takes the embeddings of one artifact only.
    EDGE_STRA_GALLERY_KEY encrypts a new file; EDGE_STRA_MILVUS_TOKEN, or _USER and _PASSWORD, open a server.

    \b
    Examples:
      edge-stra gallery add --identity anna anna1.jpg anna2.jpg
      edge-stra gallery search somebody.jpg
      edge-stra gallery forget anna
    """


@gallery.command()
@model_option
@click.argument("images", metavar="IMAGE...|FOLDER", nargs=-1, required=True, type=PathType)
@click.option("--identity", help="Who the pictures show.")
@click.option("--identities-from", "source", type=click.Choice(["names", "folders"]),
              help="One FOLDER: who it is stands in each name (as Market-1501 has it) or is the folder.")  # fmt: skip
@click.option("--camera", default="", help="That took them. Default: as the names say, else none.")
@click.option("--site", default="", help="The part of the gallery they belong to: a building, a shop.")
@click.option("--time", "when", help="When they were taken, like 2026-11-21T10:00. Default: now. `purge` goes by it.")
@uri_option
@json_option
def add(
    artifact: Path | None, images: tuple[Path, ...], identity: str | None, source: str | None, camera: str, site: str,
    when: str | None, uri: str, as_json: bool,
) -> None:  # fmt: skip
    """Add pictures, each of one whole person, cropped. All are added, or none where one can't be read.

    \b
    Examples:
      edge-stra gallery add --identity anna anna1.jpg anna2.jpg --camera 3 --site shop
      edge-stra gallery add people/ --identities-from folders
      edge-stra gallery add Market-1501/query --identities-from names --gallery milvus://10.0.0.5:19530
    """
    from edge_stra.apps.reid import embed_picture
    from edge_stra.gallery.checks import MAX_ADD, checked_name
    from edge_stra.gallery.open import open_gallery
    from edge_stra.gallery.pictures import maker_of
    from edge_stra.gallery.store import Entry
    from edge_stra.gallery.times import parse_time
    from edge_stra.preprocess import read_rgb
    from edge_stra.runtime import load_predictor

    pictures = choose_pictures(images, identity, source)
    time_s = time.time() if when is None else parse_time(when)
    for name in {p.identity for p in pictures}:
        checked_name("identity", name)
    checked_name("camera", camera, empty=True)
    checked_name("site", site, empty=True)
    predictor = load_predictor(artifact or shipped_path(MODEL))
    for picture in pictures:
        height, width = read_rgb(picture.path).shape[:2]  # all, before a gallery is made: a bad one leaves none behind
        if height < LEAST_ASPECT * width:
            note = "it is added all the same, crop such first"
            say(f"{picture.path} is {width}x{height}, wider than one standing person; {note}")
    first = embed_picture(predictor, read_rgb(pictures[0].path))
    with closing(open_gallery(uri, maker_of(predictor.artifact, len(first)))) as kept:
        entries = [
            Entry(p.identity, embed_picture(predictor, read_rgb(p.path)), camera or p.camera, time_s, site)
            for p in bar("pictures")(pictures)
        ]
        added = sum(kept.add(entries[start : start + MAX_ADD]) for start in range(0, len(entries), MAX_ADD))
        report = {"gallery": kept.uri, "added": added, "count": kept.count()}
    emit(report, as_json, f"added {added}; {report['gallery']} holds {report['count']} embeddings")


@gallery.command()
@model_option
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PathType)
@click.option("-k", type=click.IntRange(1, 1000), default=5, show_default=True, help="Matches to show.")
@click.option("--threshold", type=FiniteRange(0, 2),
              help="The largest distance that names a person. Default: as calibrated for this gallery.")  # fmt: skip
@click.option("--site", help="Search this site alone.")
@uri_option
@json_option
def search(
    artifact: Path | None,
    images: tuple[Path, ...],
    k: int,
    threshold: float | None,
    site: str | None,
    uri: str,
    as_json: bool,
) -> None:
    """Say who is in each picture, a crop of one whole person: a name, or unknown.

    \b
    Examples:
      edge-stra gallery search somebody.jpg
      edge-stra gallery search crops/*.jpg -k 1 --threshold 0.6 --json
    """
    from edge_stra.apps.reid import embed_picture
    from edge_stra.gallery.naming import effective_threshold
    from edge_stra.gallery.open import open_gallery
    from edge_stra.gallery.pictures import maker_of
    from edge_stra.preprocess import read_rgb
    from edge_stra.runtime import load_predictor

    predictor = load_predictor(artifact or shipped_path(MODEL))
    embeddings = [embed_picture(predictor, read_rgb(path)) for path in images]
    with closing(open_gallery(uri, maker_of(predictor.artifact, len(embeddings[0])), create=False)) as kept:
        limit, origin = effective_threshold(kept, threshold)
        found = [kept.search(embedding, k, site) for embedding in embeddings]
    if origin == "default":
        say(
            f"threshold: {limit:g}, the default; `edge-stra gallery calibrate --data CROPS --gallery URI` finds the "
            "one of your cameras"
        )
    rows = [answer(path, matches, limit, origin) for path, matches in zip(images, found, strict=True)]
    lines = [answer_text(row, matches) for row, matches in zip(rows, found, strict=True)]
    emit(rows, as_json, "\n".join(lines))


@gallery.command("list")
@uri_option
@json_option
def list_identities(uri: str, as_json: bool) -> None:
    """List who a gallery holds, with the number of embeddings of each, its model and its threshold.

    \b
    Example:
      edge-stra gallery list --gallery sqlite:///shop.db --json
    """
    from edge_stra.gallery.checks import describe
    from edge_stra.gallery.open import open_gallery

    with closing(open_gallery(uri, None)) as kept:
        people, threshold = kept.identities(), kept.threshold()
    total = sum(people.values())
    report = {"gallery": kept.uri, "model": vars(kept.maker), "threshold": threshold, "count": total}
    lines = [
        f"{kept.uri}: {len(people)} people, {total} embeddings of {describe(kept.maker)}, "
        f"threshold {'not calibrated' if threshold is None else f'{threshold:.4f}'}"
    ]
    lines += [f"{count:>7}  {name}" for name, count in people.items()]
    emit({**report, "identities": people}, as_json, "\n".join(lines))


@gallery.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@uri_option
@json_option
def forget(name: str, yes: bool, uri: str, as_json: bool) -> None:
    """Remove a person with all embeddings, so that the file holds no readable trace. It can't be undone.

    \b
    Example:
      edge-stra gallery forget anna --yes
    """
    from edge_stra.gallery.checks import checked_name
    from edge_stra.gallery.open import open_gallery

    name = checked_name("identity", name)
    with closing(open_gallery(uri, None)) as kept:
        there = kept.identities().get(name, 0)
        if there and not yes:
            click.confirm(f"forget {name}, {there} embeddings?", abort=True, err=True)
        pending = kept.unfinished()
        gone = kept.forget(name)  # also where nobody is there: it ends an earlier one that another process held up
    if not gone and not pending:
        raise unknown_name(kept.uri, name)
    done = f"forgot {name}: {gone} embeddings removed" if gone else "what was removed earlier can't be read any more"
    emit({"gallery": kept.uri, "identity": name, "removed": gone}, as_json, done)


@gallery.command()
@click.argument("name")
@click.argument("to")
@click.option("--merge", is_flag=True, help="Also where TO is there already: both become one person.")
@uri_option
@json_option
def rename(name: str, to: str, merge: bool, uri: str, as_json: bool) -> None:
    """Give a person another name: one that a camera took in, or one who was taken in under two names (--merge).

    Cameras that are running say the new name once two of their searches have found it.

    \b
    Examples:
      edge-stra gallery rename person-door-0001 anna
      edge-stra gallery rename person-yard-0004 anna --merge
    """
    from edge_stra.gallery.checks import checked_name
    from edge_stra.gallery.open import open_gallery

    name, to = checked_name("identity", name), checked_name("identity", to)
    with closing(open_gallery(uri, None)) as kept:
        people = kept.identities()
        if name not in people:
            raise unknown_name(kept.uri, name)
        if name == to:
            raise DataError(f"the new name must be another one, but both are {name!r}")
        if to in people and not merge:
            raise DataError(
                f"{kept.uri} holds {to!r} already, with {people[to]} embeddings; give --merge where both are one "
                "person, or another name"
            )
        count = kept.rename(name, to)
    report = {"gallery": kept.uri, "from": name, "identity": to, "renamed": count}
    emit(report, as_json, f"{name} is {to} now: {count} embeddings")


@gallery.command()
@click.option("--older-than", "age", required=True, help="An age: 90m (minutes), 12h, 30d or 8w.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@uri_option
@json_option
def purge(age: str, yes: bool, uri: str, as_json: bool) -> None:
    """Remove the embeddings seen longer ago than an age, of everybody. Meant for a daily timer. It can't be undone.

    \b
    Example:
      edge-stra gallery purge --older-than 30d --yes
    """
    from edge_stra.gallery.open import open_gallery
    from edge_stra.gallery.times import parse_age

    before_s = max(0.0, time.time() - parse_age(age))
    with closing(open_gallery(uri, None)) as kept:
        if not yes:
            day = datetime.fromtimestamp(before_s).astimezone().isoformat(" ", "minutes")
            click.confirm(f"remove from {kept.uri} all that was seen before {day}?", abort=True, err=True)
        gone = kept.purge(before_s)
        report = {"gallery": kept.uri, "removed": gone, "count": kept.count()}
    emit(report, as_json, f"removed {gone} older than {age}; {report['count']} embeddings are left")


@gallery.command()
@click.option("--out", required=True, type=PathType, help="A .npz or .jsonl file.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@uri_option
@json_option
def export(out: Path, overwrite: bool, uri: str, as_json: bool) -> None:
    """Write all a gallery holds into a file: names, cameras, sites, times, embeddings. It is not encrypted.

    \b
    Examples:
      edge-stra gallery export --out people.npz
      edge-stra gallery export --out people.jsonl --gallery milvus://10.0.0.5:19530
    """
    from edge_stra.gallery.copying import check_export, export_gallery
    from edge_stra.gallery.open import open_gallery

    check_export(out, overwrite)
    with closing(open_gallery(uri, None)) as kept:
        count = export_gallery(kept, out, overwrite)
    emit({"gallery": kept.uri, "out": str(out), "count": count}, as_json, f"wrote {count} embeddings: {out}")


@gallery.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--merge", is_flag=True, help="Add to a target that holds some already.")
@json_option
def copy(source: str, target: str, merge: bool, as_json: bool) -> None:
    """Copy a gallery into another, of either engine. FROM and TO are URIs; FROM stays as it is.

    \b
    Examples:
      edge-stra gallery copy sqlite:///gallery.db milvus://10.0.0.5:19530
      EDGE_STRA_GALLERY_KEY=... edge-stra gallery copy sqlite:///plain.db sqlite:///encrypted.db
    """
    from edge_stra.gallery.copying import copy_gallery
    from edge_stra.gallery.open import open_gallery, same_place

    if same_place(source, target):
        raise GalleryError(f"FROM and TO must be two galleries, but both are {source}")
    with closing(open_gallery(source, None)) as first, closing(open_gallery(target, first.maker)) as second:
        count = copy_gallery(first, second, merge, bar("embeddings"))
        report = {"from": first.uri, "to": second.uri, "copied": count, "count": second.count()}
    emit(report, as_json, f"copied {count}; {report['to']} holds {report['count']} embeddings")


def unknown_name(uri: str, name: str) -> DataError:
    return DataError(f"{uri} holds nobody called {name!r}; `edge-stra gallery list` shows who is there")


def choose_pictures(images: tuple[Path, ...], identity: str | None, source: str | None) -> list[Labelled]:
    """The pictures with who they show, by the options of `add`."""
    from edge_stra.gallery.pictures import Labelled, labelled_pictures

    if (identity is None) == (source is None):
        raise click.UsageError("say who the pictures show: --identity NAME, or --identities-from names|folders")
    if identity is not None:
        return [Labelled(path, identity, "") for path in images]
    if len(images) != 1:
        raise click.UsageError(f"--identities-from takes one folder, but got {len(images)} paths")
    pictures, left_out = labelled_pictures(images[0], str(source))
    if left_out:
        say(f"left out {left_out} pictures of nobody (named -1 or 0000)")
    if not pictures:
        raise DataError(f"{images[0]} must hold pictures of people, but all are of nobody (named -1 or 0000)")
    return pictures


def answer(path: Path, matches: list[Match], threshold: float, origin: str) -> dict[str, Any]:
    """What `search` says of one picture, JSON-ready."""
    from edge_stra.gallery.naming import nearest_known

    known = nearest_known(matches, threshold)
    said = {"image": str(path), "known": known is not None, "identity": known.identity if known else None}
    return said | {"threshold": threshold, "threshold_from": origin, "matches": [vars(match) for match in matches]}


def answer_text(row: dict[str, Any], matches: list[Match]) -> str:
    lines = [f"{row['image']}: {row['identity'] if row['known'] else 'unknown'}"]
    for match in matches:
        seen = datetime.fromtimestamp(match.time_s).isoformat(" ", "minutes")
        place = ", ".join(filter(None, [match.site, match.camera and f"camera {match.camera}", seen]))
        lines.append(f"  {match.distance:.4f}  {match.identity}  ({place})")
    return "\n".join(lines)
