"""The command line, and the only place where everything meets. Heavy imports live inside the commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from edge_stra import __version__
from edge_stra.spec import DataError, EdgeStraError, OutputError, ParityError

PRECISIONS = ("fp32", "fp16", "dynamic", "int8", "int8-full")
PathType = click.Path(path_type=Path)


class Commands(click.Group):
    """Turns this project's errors into one line and exit code 1; --help keeps line breaks of examples."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeStraError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except ModuleNotFoundError as error:
            extra = "pi" if error.name in ("cv2", "ai_edge_litert") else "export"
            raise click.ClickException(
                f"{error.name} is not installed; run: pip install 'edge-stra[{extra}]'"
            ) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="edge-stra")
def main() -> None:
    """MobileNetV2 with Structure-Regularized Attention: exact and fast on devices.

    \b
    Examples:
      edge-stra export --model mobilenetv2_stra.fer --quantize int8 --out out
      edge-stra run out/mobilenetv2_stra.fer.int8.tflite photo.jpg --out annotated.png
      edge-stra check out/mobilenetv2_stra.fer.int8.tflite --layers
      edge-stra doctor
    """


def say(line: str) -> None:
    """Progress, for people: standard error, so that standard output stays the result."""
    click.echo(line, err=True)


def emit(data: dict[str, Any] | list[Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(data, indent=1) if as_json else text)


def bar(label: str) -> Callable[[list[Any]], Iterable[Any]]:
    """A progress bar on standard error, with time left; nothing where that is no terminal."""

    def show(items: list[Any]) -> Iterable[Any]:
        with click.progressbar(items, label=label, file=sys.stderr) as shown:
            yield from shown

    return show


@main.command()
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def models(as_json: bool) -> None:
    """List the models: task, input, multiply-accumulates, parameters, and whether weights are shipped.

    Parameters are counted without the classifier. MACs count convs, linears and batched products.
    """
    from edge_stra.models.macs import count_macs
    from edge_stra.models.registry import MODEL_NAMES, count_parameters, create_model, get_spec
    from edge_stra.shipped import shipped_weights

    rows = []
    for name in MODEL_NAMES:
        spec, model = get_spec(name), create_model(name).eval()
        rows.append(
            {
                "name": name,
                "task": spec.task,
                "input_hw": list(spec.input.size_hw),
                "macs": count_macs(model, spec.input.size_hw),
                "parameters": count_parameters(model),
                "shipped": shipped_weights(name) is not None,
            }
        )
    lines = [f"{'name':<28}{'task':<6}{'input':>9}{'M MACs':>9}{'M params':>10}  shipped weights"]
    for r in rows:
        size = f"{r['input_hw'][0]}x{r['input_hw'][1]}"  # type: ignore[index]
        millions = f"{r['macs'] / 1e6:>9.1f}{r['parameters'] / 1e6:>10.2f}"  # type: ignore[operator]
        lines.append(f"{r['name']:<28}{r['task']:<6}{size:>9}{millions}  {'yes' if r['shipped'] else '-'}")
    emit(rows, as_json, "\n".join(lines))


@main.command()
@click.option("--model", required=True, help="A name that `edge-stra models` lists.")
@click.option("--weights", help="A .safetensors or torch checkpoint, or `random`. Default: the shipped weights.")
@click.option("--target", default="tflite", show_default=True, help="tflite")
@click.option("--quantize", default="int8", show_default=True, help=" | ".join(PRECISIONS))
@click.option("--calibration", type=PathType, help="Folder of pictures, or a text file with one path a line.")
@click.option("--ranges", help="Of int8 activations: minmax | percentile | mse. Default: as the recipe says.")
@click.option(
    "--bias-correction/--no-bias-correction",
    default=None,
    help="Take what the rounding of weights adds off the biases. Default: as the recipe says.",
)
@click.option(
    "--equalise/--no-equalise",
    default=None,
    help="Balance the channels of the residual streams, exactly. Default: as the recipe says.",
)
@click.option(
    "--images", type=PathType, help="Pictures for the parity check. Default: those of --calibration, else drawn ones."
)
@click.option(
    "--out", type=PathType, default=Path("out"), show_default=True, help="Folder for the artifact and its manifest."
)
@click.option("--overwrite", is_flag=True, help="Replace an artifact that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of the report.")
def export(
    model: str,
    weights: str | None,
    target: str,
    quantize: str,
    calibration: Path | None,
    ranges: str | None,
    bias_correction: bool | None,
    equalise: bool | None,
    images: Path | None,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write an artifact for devices, with proof that it equals its PyTorch model, or write nothing.

    \b
    fp32       float32, equal to the last digits
    fp16       weights stored in half precision, computed in float32
    dynamic    int8 weights, activations quantized while running
    int8       the fast one: static int8, attention's products in float, float input and output
    int8-full  every operator integer, integer input and output

    \b
    Examples:
      edge-stra export --model mobilenetv2_stra.fer --quantize int8
      edge-stra export --model mobilenetv2_stra.fer --weights mine.safetensors --calibration faces/
      edge-stra export --model mobilenetv2_stra.fer --ranges mse --bias-correction --calibration faces/
      edge-stra export --model mobilenetv2_stra.reid --weights random --quantize fp32 --out bench
    """
    import torch

    from edge_stra.export import Request
    from edge_stra.export import export as run_export
    from edge_stra.parity import render

    torch.set_num_threads(1)  # 64 small forward passes: on a busy machine threads wait for each other far longer
    switches = (ranges, bias_correction, equalise)
    done = run_export(Request(model, quantize, out, target, weights, calibration, images, overwrite, *switches), say)
    from edge_stra.artifact import manifest_path

    emit(done.manifest, as_json, f"{render(done.comparisons)}\n{done.path}\n{manifest_path(done.path)}")


@main.command()
@click.argument("artifact", type=PathType)
@click.option("--weights", help="The weights it was made from, where they are not shipped or random.")
@click.option("--images", type=PathType, help="Folder of pictures. Default: drawn ones.")
@click.option("--layers", is_flag=True, help="Also each module's output against the artifact's tensor, worst first.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def check(artifact: Path, weights: str | None, images: Path | None, layers: bool, as_json: bool) -> None:
    """Repeat the parity check of an artifact against its PyTorch model. Exit code 1 where it fails.

    \b
    Example:
      edge-stra check out/mobilenetv2_stra.fer.int8.tflite --images faces/ --layers
    """
    from edge_stra import parity
    from edge_stra.layers import compare_layers
    from edge_stra.layers import render as render_layers
    from edge_stra.recheck import recheck

    result = recheck(artifact, weights, images)
    text, data = parity.render(result.comparisons), {"comparisons": [c.to_json() for c in result.comparisons]}
    if layers:
        rows = compare_layers(result.network, result.artifact, result.inputs[:8])
        text, data["layers"] = f"{text}\n\n{render_layers(rows)}", [vars(row) for row in rows]
    emit(data, as_json, text)
    if result.failures:
        raise ParityError("; ".join(result.failures))


@main.command()
@click.argument("artifact", type=PathType)
@click.option("--delegate", type=click.Choice(["xnnpack", "edgetpu", "gpu", "all"]), default="xnnpack",
              show_default=True, help="Whose partitions and reasons are shown, and whom --fail-on asks.")  # fmt: skip
@click.option("--operators", is_flag=True, help="Also list every operator.")
@click.option("--fail-on", type=click.Choice(["undelegated"]), help="Exit code 1 where an operator is not taken.")
@click.option("--json", "as_json", is_flag=True, help="JSON of all delegates instead of a table.")
def inspect(artifact: Path, delegate: str, operators: bool, fail_on: str | None, as_json: bool) -> None:
    """Predict which operators of a .tflite file a delegate takes, in how many partitions, and why not the others.

    Nothing is run. The rules of XNNPACK are those of ai-edge-litert 2.3.0, those of the Coral Edge TPU and the GPU
    delegate what is published. `edge-stra doctor ARTIFACT` says what XNNPACK really takes here.

    \b
    Examples:
      edge-stra inspect out/mobilenetv2_stra.fer.int8.tflite
      edge-stra inspect out/mobilenetv2_stra.fer.int8.tflite --fail-on undelegated
      edge-stra inspect out/mobilenetv2_stra.fer.int8-full.tflite --delegate edgetpu --operators
    """
    from edge_stra import inspect_graph, inspect_table

    found = inspect_graph.inspect(artifact)
    chosen = list(found.findings) if delegate == "all" else [delegate]
    emit(inspect_graph.report(found), as_json, inspect_table.render(found, chosen, operators))
    if fail_on is not None:
        found.check(chosen)


@main.command()
@click.argument("artifact", type=PathType)
@click.argument("images", nargs=-1, required=True, type=PathType)
@click.option("--out", type=PathType, help="Annotated picture, or a folder for several.")
@click.option("--detector", type=click.Choice(["auto", "yunet", "haar", "none"]), default="auto", show_default=True,
              help="How faces are found; none takes the whole picture as one face.")  # fmt: skip
@click.option("--yunet", type=PathType, help="YuNet's .onnx file.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def run(
    artifact: Path, images: tuple[Path, ...], out: Path | None, detector: str, yunet: Path | None, as_json: bool
) -> None:
    """Predict on pictures with the device runtime alone.

    An expression model finds faces and names the expression of each. A re-identification model prints the
    embedding of one picture, or the distance of two.

    \b
    Examples:
      edge-stra run out/mobilenetv2_stra.fer.int8.tflite photo.jpg --out annotated.png
      edge-stra run out/mobilenetv2_stra.fer.int8.tflite crop.png --detector none --json
      edge-stra run out/mobilenetv2_stra.reid.int8.tflite anna1.jpg anna2.jpg
    """
    from edge_stra.runtime import load_predictor

    predictor = load_predictor(artifact)
    say(f"runtime: {predictor.runtime_name}")
    if predictor.spec.task == "fer":
        from edge_stra.apps.pictures import annotate_pictures

        if out is not None and len(images) > 1 and out.suffix:
            raise OutputError(f"--out must be a folder for {len(images)} pictures, but {out} looks like a file")
        rows, used = annotate_pictures(predictor, images, out, detector, yunet)
        say(f"detector: {used}")
        lines = [f"{r['image']}: {len(r['faces'])} face(s)" + "".join(face_line(f) for f in r["faces"]) for r in rows]
        emit(rows, as_json, "\n".join(lines))
    else:
        from edge_stra.apps.pictures import compare_pictures

        result = compare_pictures(predictor, images)
        text = (
            f"distance {result['distance']:.4f}"
            if "distance" in result
            else " ".join(f"{v:.6f}" for v in result["embedding"])
        )
        emit(result, as_json, text)


def face_line(face: dict[str, Any]) -> str:
    probabilities = sorted(face["probabilities"].items(), key=lambda pair: -pair[1])
    return f"\n  {face['label']:<10} at {face['box_xywh']}: " + ", ".join(f"{k} {v:.0%}" for k, v in probabilities)


@main.command()
@click.argument("source", metavar="ARTIFACT|CHECKPOINT")
@click.option("--data", required=True, type=PathType, help="Folder of labelled pictures, as said above.")
@click.option("--baseline", help="Another artifact, checkpoint or shipped model: its figures, and the drop from it.")
@click.option("--model", help="The model of a checkpoint that does not say it itself.")
@click.option("--min-accuracy", type=float, help="Exit code 1 below this accuracy, in percent (expression).")
@click.option("--min-map", type=float, help="Exit code 1 below this mAP, in percent (re-identification).")
@click.option("--max-drop", type=float, help="Exit code 1 above this drop from --baseline, in points.")
@click.option("--threads", type=click.IntRange(1), help="Default: one for each CPU.")
@click.option("--picture", type=PathType, help="Draw the result into this .png: confusion matrix, or nearest crops.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def evaluate(
    source: str,
    data: Path,
    baseline: str | None,
    model: str | None,
    min_accuracy: float | None,
    min_map: float | None,
    max_drop: float | None,
    threads: int | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """How good an artifact, a checkpoint or a shipped model is on labelled pictures.

    \b
    Expression: --data holds the seven class folders. Accuracy, recall of each class, confusion matrix.
    Re-identification: --data holds `query` and `bounding_box_test`, as Market-1501 has them. mAP and rank 1, 5, 10
    by its single-query protocol.

    \b
    Examples:
      edge-stra evaluate out/mobilenetv2_stra.fer.int8.tflite --data fer2013/validation \\
          --baseline mobilenetv2_stra.fer --max-drop 1.0 --picture confusion.png
      edge-stra evaluate out/mobilenetv2_stra.reid.int8.tflite --data Market-1501 --min-map 70 --json
      edge-stra evaluate best.pt --model mobilenetv2_stra.reid --data Market-1501
    """
    from edge_stra.evaluate import evaluate as run_evaluation
    from edge_stra.evaluate import find_failures, render
    from edge_stra.subjects import CHECKPOINTS, open_subject

    if max_drop is not None and baseline is None:
        raise click.UsageError("--max-drop needs --baseline")
    if model is not None and not any(Path(name or "").suffix in CHECKPOINTS for name in (source, baseline)):
        raise click.UsageError(f"--model names the model of a checkpoint ({', '.join(CHECKPOINTS)}), but none is given")
    if picture is not None:
        check_picture_path(picture)
    workers = threads or os.cpu_count() or 1
    subject = open_subject(source, model, workers)
    if subject.spec.task != "fer" and min_accuracy is not None:
        raise click.UsageError(f"--min-accuracy is for expression models, but {subject.label} is none; give --min-map")
    if subject.spec.task != "reid" and min_map is not None:
        raise click.UsageError(
            f"--min-map is for re-identification models, but {subject.label} is none; give --min-accuracy"
        )
    done = run_evaluation(subject, data, open_subject(baseline, model, workers) if baseline else None, bar)
    if picture is not None:
        from edge_stra.apps.overlay import write_picture

        write_picture(picture, done.draw())
        say(f"picture: {picture}")
    emit(done.report, as_json, render(done.report))
    if failures := find_failures(done.report, min_accuracy if min_map is None else min_map, max_drop):
        raise ParityError("; ".join(failures))


def check_picture_path(path: Path) -> None:
    """Refuses, before any work, a name that is no .png or a place that can't be written. Raises OutputError."""
    from edge_stra.artifact import check_output

    if path.suffix.lower() != ".png":
        raise OutputError(f"--picture must name a .png file, but got {path}")
    check_output(path, overwrite=True)


@main.command()
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=PathType)
@click.option("--baseline", type=PathType, help="Another artifact: the others' time as a ratio to it, with its spread.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of the runtime.")
@click.option("--runs", type=click.IntRange(10), default=200, show_default=True, help="Timed runs of each artifact.")
@click.option("--warm-up", type=click.IntRange(1), default=20, show_default=True, help="Runs before, not timed.")
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

    Median, 90th percentile and fastest run of one inference; the ratio to --baseline with a 95 % interval; the time
    of each kind of operator, where the runtime tells it; load time, memory and size of the file.

    \b
    Examples:
      edge-stra bench out/mobilenetv2_stra.fer.int8.tflite
      edge-stra bench out/*.tflite --baseline out/mobilenetv2_stra.fer.fp32.tflite --html bench.html
      edge-stra bench out/mobilenetv2_stra.fer.int8.tflite --threads 4 --runs 1000 --json
    """
    from edge_stra.artifact import check_output, write_atomically
    from edge_stra.bench import bench as run_bench
    from edge_stra.bench_text import render

    if html is not None:
        if html.suffix.lower() not in (".html", ".htm"):
            raise OutputError(f"--html must name an .html file, but got {html}")
        check_output(html, overwrite=True)
    report = run_bench(artifacts, baseline, threads, runs, warm_up, bar("runs"))
    if html is not None:
        from edge_stra.bench_page import page

        write_atomically(html, page(report).encode())
        say(f"page: {html}")
    emit(report, as_json, render(report))


@main.command()
@click.argument("task", type=click.Choice(["fer", "reid"]))
@click.option("--data", required=True, type=PathType,
              help="FER2013: folders `train` and `validation`, or Kaggle's CSV; or a ReID set.")  # fmt: skip
@click.option("--out", required=True, type=PathType, help="Folder for checkpoints, history and TensorBoard's events.")
@click.option("--model", help="A name that `edge-stra models` lists. Default: mobilenetv2_stra.TASK.")
@click.option("--recipe", help="A recipe of the package, or a .json file. Default: the one named like the task.")
@click.option("--init", type=PathType, help="ImageNet features, or weights of the same model, to start from.")
@click.option("--hold-out", type=click.IntRange(0), default=100, show_default=True,
              help="reid: identities left out of training, to choose by. 0 trains on all.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of this process. Default: all.")
@click.option("--checkpoint-seconds", type=click.FloatRange(0), default=240.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    task: str,
    data: Path,
    out: Path,
    model: str | None,
    recipe: str | None,
    init: Path | None,
    hold_out: int,
    seed: int,
    resume: bool,
    device: str,
    threads: int | None,
    checkpoint_seconds: float,
    as_json: bool,
) -> None:
    """Train a model: from ImageNet features, from weights of your own, or from nothing.

    The recipe is data (stages, sizes, losses, augmentation). A run that was killed goes on with --resume, to the
    same result. Under torchrun several processes train as one.

    \b
    Examples:
      edge-stra train fer --data fer2013/ --init imagenet.pt --out runs/fer
      edge-stra train reid --data Market-1501/ --init imagenet.pt --out runs/reid --resume
      edge-stra train fer --data fer2013.csv --recipe mine.json --out runs/mine
      torchrun --nproc-per-node 2 -m edge_stra train fer --data fer2013/ --out runs/two
      tensorboard --logdir runs
    """
    import torch

    from edge_stra.training.start import start

    if threads:
        torch.set_num_threads(threads)
    result = start(
        model or f"mobilenetv2_stra.{task}", recipe or task, data, out, init, hold_out, seed, resume, device,
        checkpoint_seconds, say, bar("reading pictures"),
    )  # fmt: skip
    if result is not None:
        text = f"best {result['score']:.2f} %" if result["score"] is not None else "trained; nothing was held out"
        emit(result, as_json, f"{text}\n{result['weights']}")


@main.command()
@click.argument("weights")
@click.argument("images", nargs=-1, type=PathType)
@click.option("--model", help="The model that WEIGHTS, a file or `random`, is for.")
@click.option("--folder", type=PathType, help="Folder of pictures: the mean mask of each mode over all of them.")
@click.option("--most", type=click.IntRange(min=1), default=500, show_default=True,
              help="Pictures of --folder at most, evenly spread.")  # fmt: skip
@click.option("--out", type=PathType, default=Path("explained"), show_default=True, help="Folder for the pictures.")
@click.option("--json", "as_json", is_flag=True, help="JSON with numbers of each mode instead of text.")
def explain(
    weights: str, images: tuple[Path, ...], model: str | None, folder: Path | None, most: int, out: Path, as_json: bool
) -> None:
    """Draw what the modes of a model with StRA learned: masks, local output and attention coefficients.

    WEIGHTS is the name of a model (its shipped weights), or a .safetensors or torch checkpoint, with --model where
    the file does not say its model. A picture is taken whole, as one face or one person: crop it first.

    \b
    Examples:
      edge-stra explain mobilenetv2_stra.fer face.png
      edge-stra explain mobilenetv2_stra.fer --folder fer2013/validation --most 200
      edge-stra explain mine.safetensors --model mobilenetv2_stra.reid person1.jpg person2.jpg --json
    """
    from functools import partial

    import torch

    from edge_stra.apps import modes
    from edge_stra.data import list_pictures, spread
    from edge_stra.explain import explain_folder, explain_picture, load_explainable

    if not images and folder is None:
        raise DataError("give pictures to explain, or --folder with a folder of them")
    torch.set_num_threads(1)
    listed = spread(list_pictures(folder), most) if folder else []
    network, spec, source = load_explainable(weights, model)
    inputs = [*images, *listed]
    sheets = modes.sheet_paths([path.stem for path in images], out, inputs)
    of_folder = modes.sheet_paths([folder.resolve().name], out, inputs, "distribution") if folder else []
    say(f"{spec.name}, weights: {source}")
    one = partial(explain_picture, network, spec)
    shown = modes.explain_pictures(one, bar("pictures")(list(images)), sheets)
    report: dict[str, Any] = {"model": spec.name, "weights": source, "pictures": list(shown)}
    if folder:
        found = explain_folder(network, spec, listed, bar("mean masks"))
        report["folder"] = modes.write_distribution(found, folder, of_folder[0])
        shown.append(report["folder"])
    emit(report, as_json, "\n".join(modes.describe(row) for row in shown))


@main.command()
@click.argument("artifact", required=False, type=PathType)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def doctor(artifact: Path | None, as_json: bool) -> None:
    """Tell what is installed, which runtime and delegate serve, what is missing and the command that adds it.

    With ARTIFACT, the delegate is asked how much of that file it takes.
    """
    from edge_stra import doctor as examine

    found = examine.diagnose(artifact)
    emit(found, as_json, examine.render(found))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for your shell.

    \b
    Example:
      edge-stra completion bash >> ~/.bashrc
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "edge-stra", "_EDGE_STRA_COMPLETE").source())
