"""`edge-stra bench`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_stra.commands.common import PathType, bar, emit, say
from edge_stra.spec import OutputError

MAX_RUNS = 1_000_000


@click.command()
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=PathType)
@click.option("--baseline", type=PathType, help="Another artifact: the others' time as a ratio to it, with its spread.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Of the runtime.")
@click.option(
    "--runs", type=click.IntRange(10, MAX_RUNS), default=200, show_default=True, help="Timed runs of each artifact."
)
@click.option(
    "--warm-up", type=click.IntRange(1, MAX_RUNS), default=20, show_default=True, help="Runs before, not timed."
)
@click.option("--html", type=PathType, help="Write a page with tables and drawings into this .html.")
@click.option("--json", "as_json", is_flag=True, help="JSON, with every run, instead of text.")
def bench(
    artifacts: tuple[Path, ...],
    baseline: Path | None,
    threads: int,
    runs: int,
    warm_up: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Time artifacts on this machine: they take turns, and a noisy or throttled machine is named.

    Median, 90th percentile and fastest run of one inference; the ratio to --baseline with a 95 % interval; load time,
    memory and size of the file; of .tflite files the time of each kind of operator, where the runtime tells it.

    \b
    Examples:
      edge-stra bench out/mobilenetv2_stra.fer.int8.tflite
      edge-stra bench out/*.tflite --baseline out/mobilenetv2_stra.fer.fp32.tflite --html bench.html
      edge-stra bench out/mobilenetv2_stra.fer.int8.onnx --baseline out/mobilenetv2_stra.fer.int8.tflite
      edge-stra bench out/mobilenetv2_stra.fer.int8.tflite --threads 4 --runs 1000 --json
    """
    from edge_stra.artifact import check_output, write_atomically
    from edge_stra.bench.rounds import bench as run_bench
    from edge_stra.bench.text import render

    if html is not None:
        if html.suffix.lower() not in (".html", ".htm"):
            raise OutputError(f"--html must name an .html file, but got {html}")
        check_output(html, overwrite=True)
    report = run_bench(artifacts, baseline, threads, runs, warm_up, bar("runs"))
    emit(report, as_json, render(report))  # before the page: the figures stay where it can't be written
    if html is not None:
        from edge_stra.bench.page import page

        write_atomically(html, page(report).encode())
        say(f"page: {html}")
