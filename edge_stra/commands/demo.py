"""`edge-stra demo`: the apps that run live."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click

from edge_stra.commands.common import FiniteRange, PathType, say, shipped_path
from edge_stra.commands.gallery import uri_option
from edge_stra.commands.live import Live, check_places, default_threads, live_options, open_live_source, run_live
from edge_stra.faces import check_task
from edge_stra.live.scene import Controls
from edge_stra.spec import ArtifactError, DataError, MissingError


@click.group()
def demo() -> None:
    """Run live: expressions of faces, or people across cameras, with the device runtime alone.

    SOURCE is a camera's number, picamera2, a video file, a folder of pictures, or a stream's address (rtsp:// or
    http://). Ctrl-C ends it; recordings are whole then.
    """


@demo.command()
@live_options
@click.option(
    "--model",
    "models",
    type=PathType,
    multiple=True,
    help="Expression artifact; several can be chosen from on the page. [default: the shipped int8 model]",
)
@click.option(
    "--detector",
    type=click.Choice(["auto", "yunet", "haar", "none"]),
    default="auto",
    show_default=True,
    help="How faces are found; none takes the whole picture as one face.",
)
@click.option("--yunet", type=PathType, help="YuNet's .onnx file; `edge-stra models pull yunet` fetches it.")
@click.option(
    "--detect-side",
    type=click.IntRange(64, 4096),
    default=640,
    show_default=True,
    help="Longer side of what the detector sees; 320 takes a quarter of the time and misses small faces.",
)
@click.option(
    "--threshold",
    type=FiniteRange(0, 1),
    default=0.4,
    show_default=True,
    help="Least probability that names an expression; below it the app is unsure.",
)
@click.option(
    "--smooth",
    "tau_s",
    type=FiniteRange(0),
    default=0.5,
    show_default=True,
    help="Seconds over which probabilities are averaged; 0 takes each frame by itself.",
)
@click.option(
    "--flip-average", is_flag=True, help="See each face and its mirror image: steadier, twice the prediction's time."
)
@click.option("--attention", is_flag=True, help="Show where each mode looks, in its colour.")
@click.option("--threads", type=click.IntRange(1, 64), help="Threads of the runtime.")
def fer(
    models: tuple[Path, ...],
    detector: str,
    yunet: Path | None,
    detect_side: int,
    threshold: float,
    tau_s: float,
    flip_average: bool,
    attention: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Name the expression of every face.

    \b
    Examples:
      edge-stra demo fer --web                                     # camera 0, page on http://127.0.0.1:8080
      edge-stra demo fer picamera2 --web --host 0.0.0.0 --token new
      edge-stra demo fer talk.mp4 --mp4 annotated.mp4 --jsonl talk.jsonl
      edge-stra demo fer rtsp://camera.local/stream --mqtt mqtt://broker.local --privacy
    """
    started_s = time.monotonic()
    from edge_stra.apps.detect import find_detector
    from edge_stra.mirror import Mirrored
    from edge_stra.runtime import load_predictor
    from edge_stra.views.expressions import ExpressionView
    from edge_stra.views.masks import find_masks

    live = Live.take(options)
    check_places(live)
    wants_masks = attention or live.web  # the page can switch it on; a second interpreter costs memory
    paths = models or (shipped_path("mobilenetv2_stra.fer"),)
    names = [path.name.removesuffix(path.suffix) for path in paths]
    if len(set(names)) < len(names):
        raise DataError(f"models must have names of their own, but are {', '.join(names)}; rename one")
    predictors = {n: load_predictor(p, threads or default_threads()) for n, p in zip(names, paths, strict=True)}
    used, detect = "the whole picture as one face", None
    if detector != "none":
        used, detect = find_detector(yunet, detector, detect_side)
        if used == "haar" and detector == "auto":
            say("no YuNet here: OpenCV's cascade is slower and finds fewer faces; run: edge-stra models pull yunet")
    readers = {}
    if wants_masks:
        # Other runtimes than ai-edge-litert show no masks: only who asked for them is told.
        with contextlib.nullcontext() if attention else contextlib.suppress(MissingError):
            readers = {n: reader for n, p in predictors.items() if (reader := find_masks(p.artifact))}
    if attention and not readers:
        raise ArtifactError(f"--attention needs a .tflite model with mode attention, but {names[0]} carries none")
    seen = {n: Mirrored(p) for n, p in predictors.items()} if flip_average else predictors
    view = ExpressionView(seen, detect, tau_s, readers)
    controls = Controls(
        threshold=threshold,
        model=names[0],
        models=names,
        privacy=live.privacy,
        attention=attention if readers else None,
    )
    source = open_live_source(live)
    say(f"source: {source.label}; detector: {used}; model: {', '.join(names)}")
    run_live(live, view, controls, source, started_s)


@demo.command()
@live_options
@uri_option
@click.option("--model", type=PathType, help="Re-identification artifact. [default: the shipped int8 model]")
@click.option(
    "--detector",
    type=click.Choice(["auto", "fastestdet", "hog"]),
    default="auto",
    show_default=True,
    help="How people are found; hog is OpenCV's own, and weak.",
)
@click.option(
    "--fastestdet", type=PathType, help="FastestDet's .onnx file; `edge-stra models pull fastestdet` fetches it."
)
@click.option(
    "--threshold",
    type=FiniteRange(0, 2),
    help="Largest distance that names a person. [default: the gallery's own, by `gallery calibrate`]",
)
@click.option("--camera", default="", help="Name of this camera, kept with each embedding.")
@click.option("--site", help="Search, and enrol into, this site of the gallery alone.")
@click.option("--enrol", is_flag=True, help="Add who stays unknown, as person-0001 and so on.")
@click.option("--threads", type=click.IntRange(1, 64), help="Threads of the runtime.")
def reid(
    uri: str,
    model: Path | None,
    detector: str,
    fastestdet: Path | None,
    threshold: float | None,
    camera: str,
    site: str | None,
    enrol: bool,
    threads: int | None,
    **options: Any,
) -> None:
    """Name the people of a camera by a gallery; who is not in it stays unknown.

    Several cameras run this command each, with one gallery.

    \b
    Examples:
      edge-stra gallery add --identity anna anna1.jpg anna2.jpg
      edge-stra demo reid 0 --gallery sqlite:///gallery.db --camera door --web
      edge-stra demo reid lobby.mp4 --mp4 named.mp4 --jsonl lobby.jsonl
      edge-stra demo reid rtsp://camera.local/stream --gallery milvus://host:19530 --site shop --enrol
    """
    started_s = time.monotonic()
    from edge_stra.apps.people import find_people_detector
    from edge_stra.apps.reid import embedding_size
    from edge_stra.gallery.checks import checked_name
    from edge_stra.gallery.open import open_gallery, sqlite_path
    from edge_stra.gallery.pictures import maker_of
    from edge_stra.runtime import load_predictor
    from edge_stra.views.people import THRESHOLD_RANGE, create_people_view, starting_threshold

    live = Live.take(options)
    check_places(live, sqlite_path(uri))
    path = model or shipped_path("mobilenetv2_stra.reid")
    predictor = load_predictor(path, threads or default_threads())
    check_task(predictor.spec, "reid")
    used, detect = find_people_detector(fastestdet, detector)
    maker = maker_of(predictor.artifact, embedding_size(predictor))
    checked_name("camera", camera, empty=True)
    if site is not None:
        checked_name("site", site)
    # The source first: one that is not there must leave no empty gallery behind. And without --enrol nobody would
    # ever be in a new gallery: its name is a slip.
    with (
        contextlib.closing(open_live_source(live)) as source,
        contextlib.closing(open_gallery(uri, maker, create=enrol)) as gallery,
    ):
        if enrol and not camera:
            say("--enrol without --camera: another camera on this gallery could give a stranger the same name")
        limit, line = starting_threshold(gallery, threshold)
        rates = [rate for rate in (source.fps, live.fps) if rate]
        view = create_people_view(predictor, detect, gallery, camera, site, enrol, say, min(rates, default=None))
        controls = Controls(limit, THRESHOLD_RANGE, path.stem, (path.stem,), privacy=live.privacy)
        say(f"source: {source.label}; detector: {used}; {gallery.count()} embeddings in {gallery.uri}; {line}")
        run_live(live, view, controls, source, started_s)
