"""`edge-stra export`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_stra.commands.common import PathType, emit, say
from edge_stra.targets import TARGETS, get_target


@click.command()
@click.option("--model", required=True, help="A name that `edge-stra models` lists.")
@click.option("--weights", help="A .safetensors or torch checkpoint, or `random`. Default: the shipped weights.")
@click.option(
    "--spec",
    "spec_file",
    type=PathType,
    help="JSON: labels, input and network of your weights, where not the model's own.",
)
@click.option("--target", default="tflite", show_default=True, help=" | ".join(TARGETS))
@click.option("--quantize", help="See above; each target has its own. Default: int8, for coreml fp16.")
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
@click.option("--ios", type=int, help="coreml: the oldest iOS to serve. Default: the oldest the precision can.")
@click.option("--overwrite", is_flag=True, help="Replace an artifact that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of the report.")
def export(
    model: str,
    weights: str | None,
    spec_file: Path | None,
    target: str,
    quantize: str | None,
    calibration: Path | None,
    ranges: str | None,
    bias_correction: bool | None,
    equalise: bool | None,
    images: Path | None,
    out: Path,
    ios: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write an artifact for devices, with proof that it equals its PyTorch model, or write nothing.

    \b
    tflite  fp32       float32, equal to the last digits
            fp16       weights stored in half precision, computed in float32
            dynamic    int8 weights, activations quantized while running
            int8       the fast one: static int8, attention's products in float, float input and output
            int8-full  every operator integer, integer input and output
    onnx    fp32, fp16 (weights and arithmetic; few layers stay float32), int8 (QuantizeLinear, DequantizeLinear)
    coreml  fp32, fp16, w8, palette6, palette4 (weights in 8, 6, 4 bits), w8a8 (activations too; iOS 17)

    Weights do not say what they were trained on. Where labels (and their order), size, colour or normalisation are
    not those that `edge-stra models` lists, or strides and their like not this project's (docs/own_model.md), --spec
    says so:

    \b
    {"labels": ["happy", "sad"],
     "input": {"size_hw": [44, 44], "color": "rgb", "mean_rgb": [0.5, 0.5, 0.5], "std_rgb": [0.5, 0.5, 0.5]},
     "network": {"stem_stride": 1, "last_stage_stride": 1, "mode_interaction": true, "batch_norm_eps": 1e-5}}

    \b
    Examples:
      edge-stra export --model mobilenetv2_stra.fer --quantize int8
      edge-stra export --model mobilenetv2_stra.fer --weights mine.safetensors --calibration faces/
      edge-stra export --model mobilenetv2_stra.fer --weights mine.pt --spec mine.json --calibration faces/ --out mine
      edge-stra export --model mobilenetv2_stra.fer --target coreml --quantize fp16
      edge-stra export --model mobilenetv2_stra.reid --target onnx --quantize int8
      edge-stra export --model mobilenetv2_stra.fer --ranges mse --bias-correction --calibration faces/
      edge-stra export --model mobilenetv2_stra.reid --weights random --quantize fp32 --out bench
    """
    import torch

    from edge_stra.export import Request
    from edge_stra.export import export as run_export
    from edge_stra.models.registry import get_spec
    from edge_stra.parity import render
    from edge_stra.spec_file import read_spec

    torch.set_num_threads(1)  # 64 small forward passes: on a busy machine threads wait for each other far longer
    quantize = quantize or get_target(target).precisions[0]
    own_spec = read_spec(spec_file, get_spec(model)) if spec_file else None
    switches = (ranges, bias_correction, equalise, ios, own_spec)
    done = run_export(Request(model, quantize, out, target, weights, calibration, images, overwrite, *switches), say)
    from edge_stra.artifact import manifest_path

    emit(done.manifest, as_json, f"{render(done.comparisons)}\n{done.path}\n{manifest_path(done.path)}")
