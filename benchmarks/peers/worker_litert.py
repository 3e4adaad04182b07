"""LiteRT with its default delegate, XNNPACK: our file, and the plain conversion."""

from __future__ import annotations

from ai_edge_litert.interpreter import Interpreter
from protocol import Array, Function, Load, Loaded, serve


def load(request: Load) -> Loaded:
    interpreter = Interpreter(model_path=request.file, num_threads=request.threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def bind(x: Array) -> Function:
        def run() -> Array:
            interpreter.set_tensor(source, x)
            interpreter.invoke()
            output: Array = interpreter.get_tensor(target)
            return output

        return run

    return Loaded(bind, ("ai-edge-litert",))


if __name__ == "__main__":
    serve(load)
