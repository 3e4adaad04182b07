"""What is installed, what would be used, and the exact command for what is missing.

Versions come from the installed packages' metadata: nothing heavy is imported, so this answers in well under a second.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from edge_stra import __version__
from edge_stra.extras import install_command
from edge_stra.runtime import RUNTIMES, delegated, find_runtime
from edge_stra.spec import BrokenError, EdgeStraError, MissingError, first_line, is_absent

OPENCV_WHEELS = tuple(
    f"opencv-{kind}" for kind in ("python-headless", "python", "contrib-python-headless", "contrib-python")
)
# The extras, and what each is for. Whatever a device lacks beyond the first is not told as a fault.
PURPOSES = {
    "pi": "apps and artifacts on a device",
    "mqtt": "events by MQTT",
    "milvus": "galleries on a Milvus server",
    "encrypt": "encrypted galleries",
    "export": "weights to .tflite, on a computer",
    "coreml": "weights to .mlpackage",
    "onnx": "weights to .onnx, and .onnx files",
    "train": "training",
}
# What is asked for, the distributions that provide it, and the extra that adds it.
PACKAGES = (
    ("numpy", ("numpy",), "pi"),
    ("click", ("click",), "pi"),
    ("opencv", OPENCV_WHEELS, "pi"),
    ("ai-edge-litert", ("ai-edge-litert",), "pi"),
    ("aiohttp", ("aiohttp",), "pi"),
    ("paho-mqtt", ("paho-mqtt",), "mqtt"),
    ("pymilvus", ("pymilvus",), "milvus"),
    ("sqlcipher3", ("sqlcipher3",), "encrypt"),
    ("torch", ("torch",), "export"),
    ("litert-torch", ("litert-torch",), "export"),
    ("ai-edge-quantizer", ("ai-edge-quantizer",), "export"),
    ("safetensors", ("safetensors",), "export"),
    ("coremltools", ("coremltools",), "coreml"),
    ("protobuf", ("protobuf",), "coreml"),
    ("onnx", ("onnx",), "onnx"),
    ("onnxscript", ("onnxscript",), "onnx"),
    ("onnxsim", ("onnxsim",), "onnx"),
    ("onnxruntime", ("onnxruntime",), "onnx"),
    ("tqdm", ("tqdm",), "train"),
    ("tensorboard", ("tensorboard",), "train"),
)
HEAVY_RUNTIMES = ("tensorflow",)  # takes seconds to import: it is only looked for
FEATURES_OF_INTEREST = ("neon", "asimd", "asimddp", "i8mm", "fphp", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni")


def diagnose(tflite: Path | None = None) -> dict[str, Any]:
    """Everything that `edge-stra doctor` says, ready for JSON.

    With a .tflite file it is loaded, to see whether a delegate (XNNPACK) takes it; where it can't be, the rest is
    told all the same, and `delegate` has "failed": True with the reason as its note.
    """
    return {
        "edge_stra": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": describe_cpu(),
        "packages": {name: describe_package(names, extra) for name, names, extra in PACKAGES},
        "runtime": describe_runtime(),
        "delegate": examine_delegate(tflite),
        "opencv": describe_opencv(),
        "face_detector": describe_detector(),
    }


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """The CPU's architecture, name, cores this process may use, and the vector extensions that matter for int8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "machine": platform.machine(),
        # Arm boards say "Model" (the board's name), x86 says "model name".
        "name": fields.get("Model") or fields.get("model name") or platform.processor() or "unknown",
        "cores": cores,
        "features": [flag for flag in FEATURES_OF_INTEREST if flag in flags],
    }


def describe_package(names: tuple[str, ...], extra: str) -> dict[str, Any]:
    """The version of the first of some distributions that is installed, or the extra and the command that add one."""
    for name in names:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if version is not None:  # None: what was left of one that is gone
            return {"version": version, "distribution": name}
    return {"version": None, "extra": extra, "install": install_command(extra)}


def describe_runtime() -> dict[str, Any]:
    """The TFLite runtime that would be taken; light ones are really imported, TensorFlow is only looked for."""
    for name, module, _ in RUNTIMES:
        if name in HEAVY_RUNTIMES:
            if (
                sys.modules.get(module, False) is None
                or not (spec := importlib.util.find_spec(module))
                or not spec.origin
            ):
                continue
            return {"name": name, "imported": False}
        try:
            find_runtime(name)
        except BrokenError as error:
            return {"name": None, "problem": str(error)}
        except MissingError:
            continue
        return {"name": name, "imported": True}
    return {"name": None, "install": install_command("pi")}


def examine_delegate(tflite: Path | None) -> dict[str, Any]:
    """`describe_delegate`, with its errors as a note."""
    try:
        return describe_delegate(tflite)
    except EdgeStraError as error:
        return {"checked": False, "failed": True, "note": str(error)}


def describe_delegate(tflite: Path | None) -> dict[str, Any]:
    """How many nodes of a file a delegate has taken: seen on the loaded file, never guessed.

    No delegate is asked for, so the one that takes nodes is the runtime's default: XNNPACK. Raises ArtifactError,
    MissingError.
    """
    if tflite is None:
        return {"checked": False, "note": "give a .tflite file to see whether XNNPACK takes it"}
    found = delegated(tflite)
    if found.parts is None:
        return {"checked": False, "note": f"{found.runtime} does not list the nodes of a loaded file"}
    taken, parts = len(frozenset().union(*found.parts)), len(found.parts)
    told = {"xnnpack": parts > 0, "parts": parts, "taken": taken, "nodes": found.operators}
    return {"checked": True, "file": tflite.name, **told}


def load_opencv() -> Any:
    """OpenCV's module. Raises ImportError, also where a removed package has left its folder behind."""
    import cv2

    if not hasattr(cv2, "__version__"):
        raise ImportError("its files are not all there; run: pip install --force-reinstall 'opencv-python-headless<5'")
    return cv2


def describe_opencv() -> dict[str, Any]:
    """The OpenCV that is imported, and whether the Haar cascade and YuNet's class are in it."""
    try:
        cv2 = load_opencv()
        from edge_stra.apps.detect import HAAR_COMMAND, haar_path
    except ImportError as error:
        return {"version": None} | lack_of_opencv(error)
    found = {
        "version": cv2.__version__,
        "yunet_class": hasattr(cv2, "FaceDetectorYN"),
        "cascade": haar_path() is not None,
    }
    return found if found["cascade"] else found | {"install": HAAR_COMMAND}


def describe_detector() -> dict[str, Any]:
    """The face detector that would be used, or the line that says why there is none."""
    try:
        load_opencv()
        from edge_stra.apps.detect import YUNET, find_detector
        from edge_stra.pull import find_pulled

        name, _ = find_detector()
        return {"name": name, "file": str(find_pulled(YUNET)) if name == "yunet" else None}
    except ImportError as error:
        lack = lack_of_opencv(error)
        absent = f"face detection needs OpenCV, but it is not installed; run: {install_command('pi')}"
        return {"name": None, "problem": lack.get("problem", absent)}
    except EdgeStraError as error:
        return {"name": None, "problem": str(error)}


def lack_of_opencv(error: ImportError) -> dict[str, str]:
    """The command that adds OpenCV, or why the one that is installed does not load."""
    if is_absent(error, "cv2"):
        return {"install": install_command("pi")}
    return {"problem": f"OpenCV is installed, but can't be loaded: {first_line(error)}"}


def render(report: dict[str, Any]) -> str:
    """The report as lines for a terminal."""
    cpu, runtime, opencv, detector = (report[key] for key in ("cpu", "runtime", "opencv", "face_detector"))
    features = f", {' '.join(cpu['features'])}" if cpu["features"] else ""
    rows = [
        ("edge-stra", report["edge_stra"]),
        ("python", report["python"]),
        ("platform", report["platform"]),
        ("cpu", f"{cpu['name']} ({cpu['machine']}, {cpu['cores']} cores{features})"),
        *package_rows(report["packages"]),
        ("TFLite runtime", runtime["name"] or missing(runtime)),
        ("XNNPACK", render_delegate(report["delegate"])),
        ("Haar cascade", "in OpenCV" if opencv.get("cascade") else missing(opencv)),
        ("face detector", detector["name"] or detector["problem"]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def package_rows(packages: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """A line for each package that is there or that a device needs; the others by what they are for."""
    rows = [(name, found["version"] or missing(found)) for name, found in packages.items() if listed(found)]
    for extra, purpose in PURPOSES.items():
        absent = [name for name, found in packages.items() if not listed(found) and found["extra"] == extra]
        if absent:
            lack = f"lacks {', '.join(absent)}; run: {install_command(extra)}"
            rows.append((f"[{extra}]", f"{purpose}, if wanted: {lack}"))
    return rows


def listed(found: dict[str, Any]) -> bool:
    return bool(found["version"]) or found["extra"] == "pi"


def missing(found: dict[str, Any]) -> str:
    return str(found.get("problem") or f"missing; run: {found['install']}")


def render_delegate(delegate: dict[str, Any]) -> str:
    if not delegate["checked"]:
        return f"not checked: {delegate['note']}"
    if not delegate["xnnpack"]:
        return f"takes nothing of {delegate['file']} ({delegate['nodes']} nodes run on the plain kernels)"
    parts = f"{delegate['parts']} part{'s' if delegate['parts'] > 1 else ''}"
    return f"takes {delegate['taken']} of {delegate['nodes']} operators of {delegate['file']}, in {parts}"
