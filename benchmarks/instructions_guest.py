"""What runs inside the aarch64 userland: one mark before each inference and one after it.

    python instructions_guest.py FOLDER NAME...

For each NAME, FOLDER/NAME.tflite runs on FOLDER/NAME.in.npy, [count, H, W, 3] in the artifact's own input type, and
FOLDER/NAME.out.npy is written, [count, K] in its output type. A mark is a call of getppid, at which
instructions_plugin.c prints its count. Only `invoke` lies between two marks.
"""

import os
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def run(stem: str) -> None:
    interpreter = Interpreter(model_path=f"{stem}.tflite", num_threads=1)
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()
    rows = []
    for x in np.load(f"{stem}.in.npy"):
        interpreter.set_tensor(source["index"], x[None])
        os.getppid()
        interpreter.invoke()
        os.getppid()
        rows.append(interpreter.get_tensor(result["index"])[0])
    np.save(f"{stem}.out.npy", np.stack(rows))


if __name__ == "__main__":
    for name in sys.argv[2:]:
        run(f"{sys.argv[1]}/{name}")
