"""Draws docs/result.png: the confusion matrix of an artifact on labelled pictures, and its reading of drawn faces.

    edge-stra evaluate out/mobilenetv2_stra.fer.int8.tflite --data FER/validation --json > out/evaluation.json
    python scripts/readme_figure.py out/mobilenetv2_stra.fer.int8.tflite out/evaluation.json docs/result.png

The faces are `edge_stra.synthetic`'s drawings: nobody's photograph is in the project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import cv2
import matplotlib.pyplot as plt
import numpy as np
from edge_stra.apps.expression import predict_expressions
from edge_stra.apps.overlay import draw_expressions, enlarged

from edge_stra.runtime import load_predictor
from edge_stra.synthetic import face_pictures


def main() -> None:
    artifact, report, out = sys.argv[1:]
    predictor, data = load_predictor(Path(artifact)), json.loads(Path(report).read_text())
    counts = np.array(data["confusion"], float)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(1.15, 1))
    left.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    labels = predictor.spec.labels
    left.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    left.set_yticks(range(len(labels)), labels)
    for (row, column), share in np.ndenumerate(shares):
        left.text(column, row, f"{share:.0f}", ha="center", va="center", color="white" if share > 55 else "black")
    left.set_xlabel("predicted, % of the row")
    left.set_title(f"{data['accuracy']:.1f} % of {data['pictures']} pictures, {predictor.artifact.quantize}")
    tiles = []
    for picture in face_pictures(4, (240, 240), seed=11):
        tiles.append(draw_expressions(*enlarged(picture, predict_expressions(predictor, picture, None))))
    side = max(t.shape[0] for t in tiles)
    tiles = [cv2.resize(t, (side, side)) for t in tiles]
    right.imshow(np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])]))
    right.set_title("what `edge-stra run` draws, on drawn faces")
    right.axis("off")
    figure.tight_layout()
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
