"""How latency and memory grow with resolution, K, G and width, in our form and through `unfold`; and with the batch.

    python benchmarks/scale.py --out OUT [--rounds 30] [--core 0]

Float32 .tflite files, one thread, XNNPACK. Networks are whole MobileNetV2s for square pictures; blocks are what stands
in the slot (StRA, BN, ReLU6) alone, at the map that the network has there, a 16th of the picture. All take turns in one
run. Exponents are slopes of least squares through logarithms. Figures are ratios to our block or network at the base
size. Writes OUT/scale.json and OUT/scale.svg. Files of an earlier run in OUT/work are not converted again: remove them
after a change of the networks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scale_probe import runner
from scale_report import BATCHES, Point, fits, plot, render, sweeps
from torch import nn

from edge_stra.bench.rounds import interleave
from edge_stra.doctor import describe_cpu
from edge_stra.fast_attention import FastStRA
from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import EmbeddingHead, MobileNetV2, depthwise_slot
from edge_stra.quiet import quiet_tools
from edge_stra.reformulate import reformulate
from edge_stra.synthetic import structured_pictures

REFERENCE_BATCH_HW = (256, 128)


def enliven(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """Statistics of BN from x: with untouched ones the values vanish, and numbers too small are slow."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        module.train()(x)
    return module.eval()


def pictures(count: int, size_hw: tuple[int, int]) -> torch.Tensor:
    """[count, 3, H, W], -1 to 1."""
    return torch.from_numpy(structured_pictures(count, size_hw)).permute(0, 3, 1, 2).float() / 127.5 - 1


def build(point: Point) -> tuple[nn.Module, tuple[int, ...]]:
    """The module in evaluation mode, and the shape [1, H, W, C] that it takes from a device."""
    torch.manual_seed(0)
    attention = partial(StRA, modes=point.modes, window=point.window)
    if point.what == "network":
        slot = depthwise_slot if point.form == "plain" else attention
        network = MobileNetV2(EmbeddingHead, point.width, slot)
        enliven(network, pictures(4, (point.side, point.side)))
        size = (point.side, point.side)
        return (network if point.form == "naive" else reformulate(network, size)), (1, *size, 3)
    stra, norm = attention(point.channels), nn.BatchNorm2d(point.channels)
    size = (point.map_side, point.map_side)
    block = nn.Sequential(stra, norm, nn.ReLU6())
    enliven(block, torch.relu(torch.randn(4, point.channels, *size)))
    return (FastStRA(stra, size, norm) if point.form == "ours" else block), (1, *size, point.channels)


def convert(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """As `edge_stra.converters.tflite` does it, for any number of channels."""
    with quiet_tools():
        import litert_torch

        outputs = [0] if shape[-1] != 3 else None  # a network gives a vector
        changed = litert_torch.to_channel_last_io(module.eval(), args=[0], outputs=outputs)
        litert_torch.convert(changed, (torch.zeros(shape),)).export(str(path))


def probe(path: Path) -> int | None:
    """By how much loading and one run raise the peak of resident memory, in bytes; in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("scale_probe.py")), str(path)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    rise: int | None = json.loads(done.stdout.decode().splitlines()[-1])
    return rise


def batches(folder: Path) -> dict[str, Callable[[], object]]:
    """ "runtime, network, batch" -> a run of the reference form; ONNX Runtime where it is installed."""
    work: dict[str, Callable[[], object]] = {}
    for form, slot in (("stra", StRA), ("plain", depthwise_slot)):
        torch.manual_seed(0)
        network = enliven(MobileNetV2(EmbeddingHead, 1.0, slot), pictures(4, REFERENCE_BATCH_HW))
        inputs = {batch: pictures(batch, REFERENCE_BATCH_HW) for batch in BATCHES}
        work |= onnx_batches(network, inputs, form, folder)
        last: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for batch, x in inputs.items():
            work[f"torch, {form}, {batch}"] = partial(run_torch, last, x.to(memory_format=torch.channels_last))
    return work


def run_torch(network: nn.Module, x: torch.Tensor) -> object:
    with torch.inference_mode():
        return network(x)


def onnx_batches(
    network: nn.Module, inputs: dict[int, torch.Tensor], form: str, folder: Path
) -> dict[str, Callable[[], object]]:
    try:
        import onnxruntime
    except ImportError:
        return {}
    path = folder / f"{form}.onnx"
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with quiet_tools():
        torch.onnx.export(network, (inputs[2],), str(path), opset_version=18, dynamo=True, dynamic_shapes=shapes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return {f"onnxruntime, {form}, {b}": partial(session.run, None, {name: x.numpy()}) for b, x in inputs.items()}


def measure(points: Sequence[Point], folder: Path, rounds: int) -> dict[Point, dict[str, Any]]:
    """Median and quartiles in ms of all points, which take turns; the memory of each; the size of its file."""
    paths = {}
    for number, point in enumerate(points):
        print(f"{number + 1} of {len(points)}: {point}", file=sys.stderr, flush=True)
        paths[point] = folder / f"{point.name}.tflite"
        if not paths[point].is_file():
            part = folder / f"part-{point.name}.tflite"  # a run that is stopped leaves no half file
            convert(*build(point), part)
            part.replace(paths[point])
    memory = {point: probe(path) for point, path in paths.items()}
    work = [runner(path) for path in paths.values()]
    print("timing", file=sys.stderr, flush=True)
    interleave(work, 2)
    times = interleave(work, rounds)  # (rounds, points)
    print("timed", file=sys.stderr, flush=True)
    low, middle, high = np.percentile(times, (25, 50, 75), axis=0)
    return {
        point: {
            "ms": float(middle[i]), "low_ms": float(low[i]), "high_ms": float(high[i]),
            "min_ms": float(times[:, i].min()), "memory_bytes": memory[point], "file_bytes": path.stat().st_size,
        }
        for i, (point, path) in enumerate(paths.items())
    }  # fmt: skip


def measure_batches(folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Pictures a second by "runtime, network, batch": the median of rounds."""
    work = batches(folder)
    print("timing batches", file=sys.stderr, flush=True)
    interleave(list(work.values()), 1)
    times = interleave(list(work.values()), rounds)
    print("timed", file=sys.stderr, flush=True)
    sizes = [int(name.rsplit(", ", 1)[1]) for name in work]
    return {
        name: {"pictures_per_s": 1e3 * size / float(np.median(t)), "best_per_s": 1e3 * size / float(t.min())}
        for name, size, t in zip(work, sizes, times.T, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch-rounds", type=int, default=5, help="0 leaves batches out")
    parser.add_argument("--sweeps", nargs="+", choices=list(sweeps()), default=list(sweeps()))
    parser.add_argument("--converted", action="store_true", help="measure what an earlier run converted, and only that")
    parser.add_argument("--core", type=int, help="that all runs on, where the system allows it")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.out / "work"
    folder.mkdir(exist_ok=True)
    points = list(dict.fromkeys(p for name in args.sweeps for p in sweeps()[name][0]))
    if args.converted:
        points = [p for p in points if (folder / f"{p.name}.tflite").is_file()]
    measured = measure(points, folder, args.rounds)
    throughput = measure_batches(folder, args.batch_rounds) if args.batch_rounds else {}
    time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    report = {
        "time": time,
        "cpu": describe_cpu(),
        "rounds": args.rounds,
        "points": [asdict(p) | figures for p, figures in measured.items()],
        "fits": fits(measured),
        "batches": throughput,
    }
    (args.out / "scale.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    plot(measured, throughput, f"{time[:10]}, {platform.machine()}, float32, one thread", args.out / "scale.svg")
    print(render(measured, throughput))


if __name__ == "__main__":
    main()
