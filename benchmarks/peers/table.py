"""What is compared: the peers, and the rows that they give."""

from __future__ import annotations

from dataclasses import dataclass

FORMS = ("reference", "reformulated")
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Peer:
    """environment: of environments.py. kind: the file it takes, of exports.py. forms: of the network with StRA."""

    name: str
    environment: str
    worker: str
    kind: str
    precisions: tuple[str, ...] = PRECISIONS
    forms: tuple[str, ...] = FORMS
    option: str = ""


OURS = "edge-stra"
PEERS = (
    Peer(OURS, "litert", "worker_litert.py", "tflite", forms=("reformulated",)),
    Peer("litert-torch", "litert", "worker_litert.py", "tflite", ("fp32",), ("reference",)),
    Peer("ONNX Runtime", "onnxruntime", "worker_onnxruntime.py", "onnx"),
    Peer("OpenVINO", "openvino", "worker_openvino.py", "onnx"),
    Peer("ncnn", "ncnn", "worker_ncnn.py", "onnx"),
    Peer("MNN", "mnn", "worker_mnn.py", "onnx"),
    Peer("ExecuTorch", "executorch", "worker_executorch.py", "weights"),
    Peer("torch eager", "torch", "worker_torch.py", "weights", ("fp32",)),
    Peer("torch.compile", "torch", "worker_torch.py", "weights", ("fp32",), option="compile"),
)


@dataclass(frozen=True)
class Row:
    """One peer with one network in one form and precision."""

    peer: Peer
    model: str
    form: str
    precision: str


def rows(
    models: tuple[str, ...], names: list[str] | None = None, precisions: tuple[str, ...] = PRECISIONS
) -> list[Row]:
    """All rows, or those of the peers named and of ours, without which there is nothing to compare with.

    The plain network has nothing to reformulate: there a peer has one row, of the reference.
    """
    found = []
    for peer in PEERS:
        if names and peer.name not in (OURS, *names):
            continue
        for model in models:
            forms = peer.forms if "_stra" in model or peer.name == OURS else ("reference",)
            found += [Row(peer, model, f, p) for p in peer.precisions if p in precisions for f in forms]
    return found
