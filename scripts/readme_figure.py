"""Draws docs/result.png: the confusion matrix of an artifact on labelled pictures.

edge-stra evaluate out/mobilenetv2_stra.fer.int8.tflite --data FER/validation --json > out/evaluation.json
python scripts/readme_figure.py out/evaluation.json "int8 .tflite, validation split" docs/result.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def main() -> None:
    report, title, out = sys.argv[1:]
    data = json.loads(Path(report).read_text())
    counts = np.array(data["confusion"], float)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    labels = list(data["recall"])
    figure, axes = plt.subplots(figsize=(6.4, 5.2))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", color="white" if share > 55 else "black")
    axes.set_xlabel("predicted, % of the row")
    axes.set_title(f"{data['accuracy']:.1f} % of {data['pictures']} pictures: {title}")
    figure.tight_layout()
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
