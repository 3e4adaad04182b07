"""A Core ML specification and its weights -> a .mlpackage folder, the same bytes for the same input."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

LOGITS = "logits"
AUTHOR = "com.apple.CoreML"
MODEL, WEIGHTS = f"{AUTHOR}/model.mlmodel", f"{AUTHOR}/weights"


def operations(program: Any) -> list[Any]:
    """The operations of MIL's protobuf Program of one function and one block, in order."""
    (function,) = program.functions.values()
    (block,) = function.block_specializations.values()
    return list(block.operations)


def name_logits(program: Any) -> None:
    """Gives what goes into the last softmax the name `logits`, in MIL's protobuf Program; nothing else has it."""
    (classify,) = (op for op in operations(program) if op.type == "classify")
    producers = {output.name: op for op in operations(program) for output in op.outputs}
    assert LOGITS not in producers
    source = producers[classify.inputs["probabilities"].arguments[0].name]
    while source.type == "cast":
        source = producers[source.inputs["x"].arguments[0].name]
    assert source.type == "softmax"
    rename(program, source.inputs["x"].arguments[0].name, LOGITS)


def rename(program: Any, old: str, new: str) -> None:
    """Renames a value wherever it is made or read."""
    for op in operations(program):
        for output in op.outputs:
            if output.name == old:
                output.name = new
        for argument in op.inputs.values():
            for binding in argument.arguments:
                if binding.name == old:
                    binding.name = new


def write_package(out: Path, model: Any, weights: Path) -> None:
    """The folder that Core ML's tools take: manifest, specification (protobuf Model), and the file with the weights.

    coremltools gives each item a random identifier and writes maps in any order; here the identifier is made of the
    content, and maps are sorted.
    """
    data = model.SerializeToString(deterministic=True)
    folder = out / "Data" / AUTHOR
    (folder / "weights").mkdir(parents=True)
    (out / "Data" / MODEL).write_bytes(data)
    shutil.copyfile(weights, out / "Data" / WEIGHTS / "weight.bin")
    digest = hashlib.sha256(data).hexdigest()
    root, second = (str(uuid.uuid5(uuid.NAMESPACE_URL, f"{digest}/{path}")) for path in (MODEL, WEIGHTS))
    items = {
        root: item("model.mlmodel", "CoreML Model Specification", MODEL),
        second: item("weights", "CoreML Model Weights", WEIGHTS),
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": root}
    (out / "Manifest.json").write_text(json.dumps(manifest, indent=4) + "\n", "utf-8")


def item(name: str, description: str, path: str) -> dict[str, str]:
    return {"author": AUTHOR, "description": description, "name": name, "path": path}
