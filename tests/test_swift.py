"""The Swift package without a Mac: every file parses, the shared vectors are what Python computes, nothing talks.

What needs a Swift compiler runs by hand: scripts/swift_check.
"""

from __future__ import annotations

import importlib.util
import json
import math
import plistlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "swift/EdgeStRA"
DEMO = PACKAGE / "Examples/EdgeStRADemo.swiftpm"
VECTORS = PACKAGE / "Tests/EdgeStRACoreTests/Vectors"
SOURCES = sorted(path for path in PACKAGE.rglob("*.swift") if ".build" not in path.parts)
NAMES = [str(path.relative_to(PACKAGE)) for path in SOURCES]
# float32's exp and a sum's order differ between processors and numpy's versions, by far less than this
VALUE_TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """scripts/swift_vectors.py as a module."""
    spec = importlib.util.spec_from_file_location("swift_vectors", ROOT / "scripts/swift_vectors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parser() -> Any:
    """tree-sitter's parser of Swift."""
    reason = "tree-sitter and tree-sitter-swift are not installed; run: pip install -e '.[dev]'"
    tree_sitter = pytest.importorskip("tree_sitter", reason=reason)
    grammar = pytest.importorskip("tree_sitter_swift", reason=reason)
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def faults(parser: Any, source: bytes) -> Iterator[str]:
    """Where a Swift source has wrong or missing tokens, as line numbers and text."""
    nodes = [parser.parse(source).root_node]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            yield f"line {node.start_point[0] + 1}: {node.text[:60]!r}"
        nodes.extend(node.children)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_every_swift_file_parses(parser: Any, path: Path) -> None:
    assert list(faults(parser, path.read_bytes())) == []


BROKEN = {
    "a brace is missing": (b"}\n", b"\n"),
    "a bracket is missing": (b"(_ logits: [Float])", b"(_ logits: [Float)"),
    "a word is misspelt": (b"public func", b"public fun"),
    "half of a string": (b'"logits must be', b"logits must be"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_caught(parser: Any, case: str) -> None:
    source = (PACKAGE / "Sources/EdgeStRACore/Probabilities.swift").read_bytes()
    good, bad = BROKEN[case]
    assert good in source
    assert list(faults(parser, source.replace(good, bad, 1)))


def differences(found: Any, expected: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ: floats by more than the tolerance, all else at all."""
    if isinstance(found, float) and isinstance(expected, float):
        if not math.isclose(found, expected, rel_tol=VALUE_TOLERANCE, abs_tol=VALUE_TOLERANCE):
            yield f"{place}: {found} for {expected}"
    elif isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        for key in found:
            yield from differences(found[key], expected[key], f"{place}.{key}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for number, pair in enumerate(zip(found, expected, strict=True)):
            yield from differences(*pair, f"{place}[{number}]")
    elif found != expected or type(found) is not type(expected):
        yield f"{place}: {str(found)[:60]} for {str(expected)[:60]}"


VECTOR_NAMES = (
    "preprocessing", "geometry", "probabilities", "distances", "smoothing", "gallery", "ranking", "specification"
)  # fmt: skip


def test_there_is_a_file_for_each_kind_and_no_other(generator: ModuleType) -> None:
    assert {path.name for path in VECTORS.iterdir()} == {f"{name}.json" for name in VECTOR_NAMES}
    assert tuple(generator.VECTORS) == VECTOR_NAMES


@pytest.mark.parametrize("name", VECTOR_NAMES)
def test_the_vectors_are_what_python_computes(generator: ModuleType, name: str) -> None:
    kept, made = (VECTORS / f"{name}.json").read_text("ascii"), generator.text_of(name)
    assert list(differences(json.loads(made), json.loads(kept))) == [], "run scripts/swift_vectors.py, then swift_check"
    if name in ("preprocessing", "geometry", "specification"):  # nothing here depends on the processor
        assert made == kept


@pytest.mark.parametrize(
    ("function", "name", "change"),
    [
        ("resize_exact", "preprocessing", lambda picture: picture ^ 1),
        ("to_input", "preprocessing", lambda tensor: tensor * 1.001),
        ("crop_with_margin", "geometry", lambda crop: crop[::-1]),
        ("softmax", "probabilities", lambda shares: shares * 1.001),
        ("distance", "distances", lambda far: far * 1.001),
        ("smooth", "smoothing", lambda state: type(state)(state.probabilities * 0.9999, state.time_s)),
        ("distance", "gallery", lambda far: far + 1e-4),
        ("rank", "ranking", lambda report: report | {"map": report["map"] + 1e-3}),
    ],
)
def test_a_change_of_python_is_noticed(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, function: str, name: str, change: Any
) -> None:
    original = getattr(generator, function)
    monkeypatch.setattr(generator, function, lambda *arguments: change(original(*arguments)))
    made = json.loads(generator.text_of(name))
    assert list(differences(made, json.loads((VECTORS / f"{name}.json").read_text("ascii"))))


def test_the_generator_writes_where_it_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/swift_vectors.py"), str(tmp_path)], timeout=120, check=False
    )
    assert done.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in VECTORS.iterdir()}


def test_swift_check_says_how_it_is_called() -> None:
    done = subprocess.run([str(ROOT / "scripts/swift_check")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stderr == "usage: scripts/swift_check DIR\n"


def test_the_package_holds_what_it_says() -> None:
    manifest = (PACKAGE / "Package.swift").read_text("utf-8")
    assert manifest.startswith("// swift-tools-version: 5.9\n")
    assert "platforms: [.iOS(.v16), .macOS(.v13)]" in manifest
    for kind, name, folder in (
        ("target", "EdgeStRACore", "Sources"),
        ("target", "EdgeStRA", "Sources"),
        ("testTarget", "EdgeStRACoreTests", "Tests"),
    ):
        assert f'.{kind}(name: "{name}"' in manifest
        assert list((PACKAGE / folder / name).glob("*.swift"))
    assert 'resources: [.copy("Vectors")]' in manifest
    assert ".package(" not in manifest  # no dependencies


CORE = [path for path in SOURCES if "EdgeStRACore" in path.parts]
APPLE = [path for path in SOURCES if path.parent == PACKAGE / "Sources/EdgeStRA"]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_needs_foundation_alone(path: Path) -> None:
    assert set(re.findall(r"^import (\w+)", path.read_text("utf-8"), re.MULTILINE)) == {"Foundation"}


@pytest.mark.parametrize("path", APPLE, ids=lambda path: path.name)
def test_what_is_apples_is_behind_a_condition(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith("#if canImport(CoreML)") and text.endswith("#endif\n")
    assert text.count("#if") == text.count("#endif") == 1


def test_the_app_says_why_it_wants_the_camera_and_collects_nothing() -> None:
    manifest = (DEMO / "Package.swift").read_text("utf-8")
    assert ".iOSApplication(" in manifest
    purpose = re.search(r'\.camera\(\s*purposeString:\s*"([^"]+)"', manifest)  # becomes NSCameraUsageDescription
    assert purpose is not None and "nothing leaves the phone" in purpose[1]
    privacy = plistlib.loads((DEMO / "PrivacyInfo.xcprivacy").read_bytes())
    assert privacy["NSPrivacyTracking"] is False and privacy["NSPrivacyCollectedDataTypes"] == []
    assert len(re.findall(r"\.(?:microphone|location\w*|photo\w*|contacts|outgoing\w*|incoming\w*)\(", manifest)) == 0


TALKS = re.compile(
    r"URLSession|URLRequest|NSURLConnection|CFNetwork|CFSocket|CFStream|NWConnection|NWListener|WKWebView|WebView"
    r"|AsyncImage|MultipeerConnectivity|CoreBluetooth|CloudKit|MLModelCollection|import\s+Network\b"
    r"|\bsocket\s*\(|getaddrinfo|https?://"
)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_talks_to_a_network(path: Path) -> None:
    assert TALKS.findall(path.read_text("utf-8")) == []


@pytest.mark.parametrize("line", ["URLSession.shared.data(from: url)", "import Network", 'URL(string: "https://a.b")'])
def test_what_talks_would_be_found(line: str) -> None:
    assert TALKS.search(line)
