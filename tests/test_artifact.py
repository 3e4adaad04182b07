"""Artifacts: what is inside comes back, what was changed or damaged is refused in one way, nothing is half written."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_stra.artifact import (
    FORMAT,
    check_output,
    manifest_path,
    open_artifact,
    sha256_of,
    write_atomically,
    write_with,
)
from edge_stra.models.registry import MODEL_NAMES, get_spec
from edge_stra.spec import FER_LABELS, ArtifactError, ModelSpec, OutputError
from edge_stra.targets.tflite import embed, read_embedded

FLATBUFFER = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4
SPEC = get_spec("mobilenetv2_stra.fer")


def write_artifact(folder: Path, spec: ModelSpec = SPEC, quantize: str = "int8") -> Path:
    path = folder / "model.tflite"
    path.write_bytes(embed(FLATBUFFER, spec, quantize))
    return path


def write_manifest(path: Path, **changes: Any) -> None:
    manifest = {"format": FORMAT, "sha256": sha256_of(path), "model": SPEC.to_json(), "quantize": "int8"}
    manifest |= changes
    manifest_path(path).write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


def write_inner(folder: Path, inner: bytes, name: str = "edge_stra.json", flags: int = 0) -> Path:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo(name), inner)
    data = bytearray(archive.getvalue())
    if flags:
        data[data.index(b"PK\x03\x04") + 6] |= flags
        data[data.index(b"PK\x01\x02") + 8] |= flags
    path = folder / "model.tflite"
    path.write_bytes(FLATBUFFER + bytes(data))
    return path


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_what_is_embedded_comes_back(tmp_path: Path, name: str, quantize: str) -> None:
    path = write_artifact(tmp_path, get_spec(name), quantize)
    assert read_embedded(path) == (get_spec(name), quantize)
    artifact = open_artifact(path)
    assert (artifact.spec, artifact.quantize, artifact.manifest) == (get_spec(name), quantize, None)
    assert artifact.sha256 == sha256_of(path)


def test_the_model_stays_in_front_and_the_labels_unzip() -> None:
    data = embed(FLATBUFFER, SPEC, "int8")
    assert data.startswith(FLATBUFFER)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("labels.txt").decode().split() == list(FER_LABELS)


def test_equal_input_gives_equal_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed(FLATBUFFER, SPEC, "int8")
    monkeypatch.setattr("time.time", lambda: 1e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2001, 9, 9, 1, 46, 40, 6, 252, 0))
    assert embed(FLATBUFFER, SPEC, "int8") == first != embed(FLATBUFFER, SPEC, "none")


def test_a_manifest_that_matches_is_returned(tmp_path: Path) -> None:
    path = write_artifact(tmp_path)
    write_manifest(path, recipe="static")
    manifest = open_artifact(path).manifest
    assert manifest is not None and manifest["recipe"] == "static"


BAD_MANIFESTS: dict[str, tuple[dict[str, Any], str]] = {
    "another hash": ({"sha256": "0" * 64}, "does not match model.json: SHA-256 must be 000000000000"),
    "another model": ({"model": get_spec("mobilenetv2.fer").to_json()}, "another specification"),
    "another quantization": ({"quantize": "none"}, "another specification"),
    "another format": ({"format": "edge-stra.artifact/2"}, "must be a manifest of format"),
    "hash of a wrong type": ({"sha256": 5}, "must be a manifest of format"),
    "no hash": ({"sha256": None}, "must be a manifest of format"),
    "no model": ({"model": None}, "model.json"),
    "no quantization": ({"quantize": None}, "model.json"),
    "model of a wrong type": ({"model": [1]}, "model"),
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_a_manifest_that_does_not_match_is_refused(tmp_path: Path, case: str) -> None:
    changes, message = BAD_MANIFESTS[case]
    path = write_artifact(tmp_path)
    write_manifest(path, **changes)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"3", b"[" * 100_000], ids=range(7))
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: bytes) -> None:
    path = write_artifact(tmp_path)
    manifest_path(path).write_bytes(text)
    with pytest.raises(ArtifactError, match="must be a manifest of format"):
        open_artifact(path)


@pytest.mark.parametrize("change", [-1, 12, 600])
def test_a_changed_byte_is_seen_through_the_manifest(tmp_path: Path, change: int) -> None:
    path = write_artifact(tmp_path)
    write_manifest(path)
    data = bytearray(path.read_bytes())
    data[change] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError):
        open_artifact(path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_artifact(tmp_path)
    data = path.read_bytes()
    for length in [*range(0, 16), *range(16, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            read_embedded(path)


def test_any_changed_byte_of_the_archive_gives_the_specification_or_one_kind_of_error(tmp_path: Path) -> None:
    path = write_artifact(tmp_path)
    data = path.read_bytes()
    refused = 0
    for index in range(len(FLATBUFFER), len(data)):
        path.write_bytes(data[:index] + bytes([data[index] ^ 0x11]) + data[index + 1 :])
        try:
            read_embedded(path)
        except ArtifactError:
            refused += 1
    assert refused > 0.5 * (len(data) - len(FLATBUFFER))  # the JSON is guarded by the archive's checksum


INNER = {"format": FORMAT, "target": "tflite", "quantize": "int8", "model": SPEC.to_json()}
BAD_INNER: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe\xff",
    "another format": json.dumps(INNER | {"format": "x"}).encode(),
    "no model": json.dumps({k: v for k, v in INNER.items() if k != "model"}).encode(),
    "no quantization": json.dumps({k: v for k, v in INNER.items() if k != "quantize"}).encode(),
}


@pytest.mark.parametrize("case", BAD_INNER)
def test_a_damaged_specification_is_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(ArtifactError):
        read_embedded(write_inner(tmp_path, BAD_INNER[case]))


def test_an_archive_of_something_else_or_under_a_password_is_refused(tmp_path: Path) -> None:
    good = json.dumps(INNER).encode()
    assert read_embedded(write_inner(tmp_path, good)) == (SPEC, "int8")
    for path in (lambda: write_inner(tmp_path, good, "other.json"), lambda: write_inner(tmp_path, good, flags=1)):
        with pytest.raises(ArtifactError):
            read_embedded(path())


def test_a_specification_that_unpacks_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_artifact(tmp_path)
    monkeypatch.setattr("edge_stra.targets.tflite.MAX_JSON_BYTES", 100)
    with pytest.raises(ArtifactError, match="refused"):
        read_embedded(path)


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\0\0\0\0TFL4" + bytes(100), b"PK\x03\x04" + bytes(100)], ids=range(4)
)
def test_what_is_no_tflite_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"must be a \.tflite file"):
        read_embedded(tmp_path / "model.tflite")


@pytest.mark.parametrize("name", ["absent.tflite", "."])
def test_an_absent_artifact_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="there is no such file"):
        open_artifact(tmp_path / name)


INPUT = SPEC.to_json()["input"]
HOSTILE: dict[str, dict[str, Any]] = {
    "height 0": {"input": INPUT | {"size_hw": [0, 88]}},
    "negative width": {"input": INPUT | {"size_hw": [88, -88]}},
    "huge": {"input": INPUT | {"size_hw": [88, 10**9]}},
    "infinite size": {"input": INPUT | {"size_hw": [float("inf"), 88]}},
    "NaN size": {"input": INPUT | {"size_hw": [float("nan"), 88]}},
    "three sizes": {"input": INPUT | {"size_hw": [88, 88, 3]}},
    "size as text": {"input": INPUT | {"size_hw": "ab"}},
    "std 0": {"input": INPUT | {"std_rgb": [1.0, 0.0, 1.0]}},
    "negative std": {"input": INPUT | {"std_rgb": [1.0, -1.0, 1.0]}},
    "NaN std": {"input": INPUT | {"std_rgb": [1.0, float("nan"), 1.0]}},
    "infinite mean": {"input": INPUT | {"mean_rgb": [float("inf"), 0.0, 0.0]}},
    "two means": {"input": INPUT | {"mean_rgb": [0.5, 0.5]}},
    "unknown colour": {"input": INPUT | {"color": "bgr"}},
    "colour as list": {"input": INPUT | {"color": ["rgb"]}},
    "unknown output": {"output": "boxes"},
    "input as text": {"input": "88x88"},
    "labels as text": {"labels": "anger"},
    "labels as number": {"labels": 7},
    "logits without labels": {"labels": []},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_specification_is_refused(tmp_path: Path, case: str) -> None:
    inner = INNER | {"model": SPEC.to_json() | HOSTILE[case]}
    with pytest.raises(ArtifactError, match="specification must be complete"):
        read_embedded(write_inner(tmp_path, json.dumps(inner).encode()))


@pytest.mark.parametrize("field", ["name", "task", "input", "labels", "output"])
def test_a_specification_without_a_field_is_refused(field: str) -> None:
    with pytest.raises(ArtifactError, match=field):
        ModelSpec.from_json({k: v for k, v in SPEC.to_json().items() if k != field})


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_a_specification_that_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ArtifactError):
        ModelSpec.from_json(data)


# --- where it is written ---------------------------------------------------------------------------------------


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "out.tflite"
    check_output(path, overwrite=False)
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="give --overwrite"):
        check_output(path, overwrite=False)
    check_output(path, overwrite=True)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("below", ["file/out.tflite", "file/child/out.tflite"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="must be a folder that can be written"):
        check_output(tmp_path / below, overwrite=False)


def test_a_new_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "out.tflite", overwrite=False)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_writing_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "out.tflite"
    for data in (b"long, long, long", b"short"):
        write_atomically(path, data)
        assert path.read_bytes() == data and path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def fail_with(error: Exception) -> Callable[[Path], None]:
    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise error

    return write


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), OutputError),
        (ValueError("bug"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: Exception, expected: type[BaseException]
) -> None:
    path = tmp_path / "out.tflite"
    path.write_bytes(b"old")
    with pytest.raises(expected):
        write_with(path, fail_with(error))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_writing_onto_a_folder_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.tflite").mkdir()
    with pytest.raises(OutputError, match="can't be written"):
        write_atomically(tmp_path / "out.tflite", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["out.tflite"]


@pytest.mark.parametrize("parent", ["absent", "file"])
def test_writing_where_there_is_no_folder_is_refused(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="can't be written"):
        write_atomically(tmp_path / parent / "out.tflite", b"data")
