"""What can be evaluated: an artifact, a checkpoint or a shipped model, each as the same kind of value.

torch is imported for checkpoints and shipped weights alone: a device without it evaluates artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_stra.artifact import open_artifact
from edge_stra.mirror import Mirrored, both_ways
from edge_stra.preprocess import load_input
from edge_stra.runtime import make_predictor
from edge_stra.shipped import shipped_weights
from edge_stra.spec import ArtifactError, InputSpec, ModelError, ModelSpec
from edge_stra.targets import TARGETS

BATCH = 16  # of 4, 8, 16, 32 the fastest for both tasks: with 32, maps above 32 MB cost page faults at each layer
Array = NDArray[np.float32]
Rows = Callable[[Sequence[Path]], Iterator[Array]]
Progress = Callable[[list[Path]], Iterable[Path]]


@dataclass(frozen=True)
class Subject:
    """A model under evaluation. `rows` gives the output [K] of each picture file in order, as it is asked for."""

    spec: ModelSpec
    label: str  # for people: which file or model it is
    rows: Rows

    def embed(self, paths: list[Path], progress: Progress = iter) -> Array:
        """The outputs [count, K] of picture files, in order. One batch or one picture a thread is in memory at a time.

        Raises DataError where a picture can't be read, ArtifactError where an output is not finite.
        """
        outputs = np.stack([row for _, row in zip(progress(paths), self.rows(paths), strict=True)])  # (count, k)
        if not (finite := np.isfinite(outputs).all(axis=1)).all():
            raise ArtifactError(
                f"{self.label} must give finite numbers, but gives NaN or infinity for {paths[int(finite.argmin())]}"
            )
        return outputs


def threaded(functions: Sequence[Callable[[Path], Array]]) -> Rows:
    """Rows made by functions that each serve one thread at a time: as many threads as functions."""
    free: SimpleQueue[Callable[[Path], Array]] = SimpleQueue()
    for function in functions:
        free.put(function)

    def one(path: Path) -> Array:
        function = free.get()
        try:
            return function(path)
        finally:
            free.put(function)

    def rows(paths: Sequence[Path]) -> Iterator[Array]:
        with ThreadPoolExecutor(len(functions)) as pool:
            yield from pool.map(one, paths)  # after an error it cancels what has not begun

    return rows


def batched(function: Callable[[Array], NDArray[Any]], pixels: InputSpec) -> Rows:
    """Rows made by a function from inputs [n, H, W, 3], n at most BATCH, to outputs [n, K]."""

    def rows(paths: Sequence[Path]) -> Iterator[Array]:
        for start in range(0, len(paths), BATCH):
            yield from function(np.concatenate([load_input(p, pixels) for p in paths[start : start + BATCH]]))

    return rows


def open_subject(source: str, model: str | None = None, threads: int = 1, mirror: bool = False) -> Subject:
    """An artifact, a checkpoint (.safetensors, .pt, .pth), or a model's name for its shipped weights.

    `model` names the model of a checkpoint that does not say it itself, which then may have any suffix; with `mirror`
    each output is the mean of the picture's and of its mirror image's. Raises ArtifactError, ModelError, MissingError.
    """
    opener = OPENERS.get(Path(source).suffix.lower(), open_shipped)
    if opener is open_shipped and model and Path(source).is_file():  # named like .pth.tar or .bin
        opener = open_checkpoint
    return opener(source, model, threads, mirror)


def open_file(source: str, model: str | None, threads: int, mirror: bool = False) -> Subject:
    """An artifact, one predictor for each thread: runtimes let go of Python's lock while they run, as OpenCV does."""
    artifact = open_artifact(Path(source))

    def serve() -> Callable[[Path], Array]:
        predictor = make_predictor(artifact)
        predictor = Mirrored(predictor) if mirror else predictor
        return lambda path: predictor(load_input(path, artifact.spec.input))[0]  # (k,)

    label = labelled(artifact.path.name, mirror)
    return Subject(artifact.spec, label, threaded([serve() for _ in range(max(1, threads))]))


def labelled(name: str, mirror: bool) -> str:
    return f"{name}, with mirror images" if mirror else name


def open_checkpoint(source: str, model: str | None, threads: int, mirror: bool) -> Subject:
    from edge_stra.models.weights import model_of

    path = Path(source)
    return torch_subject(model_of(path, model), source, path.name, threads, mirror)


def open_shipped(source: str, model: str | None, threads: int, mirror: bool) -> Subject:
    if shipped_weights(source) is None:
        raise ModelError(
            f"{source!r} must be an artifact ({', '.join(ARTIFACTS)}), a checkpoint (.safetensors, .pt, .pth) or a "
            "model whose weights are shipped, but is none of them; `edge-stra models` lists the models"
        )
    return torch_subject(source, None, f"{source}, shipped weights", threads, mirror)


def torch_subject(name: str, weights: str | None, label: str, threads: int, mirror: bool) -> Subject:
    """The network as PyTorch runs it, in float32. Sets the number of torch's threads for the whole process."""
    import torch

    from edge_stra.loading import load_model
    from edge_stra.models.registry import get_spec

    network = load_model(name, weights)[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.set_num_threads(max(1, threads))

    @torch.inference_mode()
    def forward(batch: Array) -> NDArray[Any]:
        x = torch.from_numpy(batch).permute(0, 3, 1, 2)  # (n, 3, h, w), channels last in memory
        result: NDArray[Any] = network(x).numpy()
        return result

    spec = get_spec(name)
    function = partial(both_ways, forward) if mirror else forward
    return Subject(spec, labelled(label, mirror), batched(function, spec.input))


CHECKPOINTS = (".safetensors", ".pt", ".pth")
ARTIFACTS = tuple(target.suffix for target in TARGETS.values())
OPENERS = dict.fromkeys(ARTIFACTS, open_file) | dict.fromkeys(CHECKPOINTS, open_checkpoint)
