"""Loading and saving of weights: safetensors, or checkpoints that torch reads with `weights_only`."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_stra.models.attention import StRA
from edge_stra.models.mobilenetv2 import MobileNetV2
from edge_stra.spec import ModelError, OutputError, first_line

MAX_WEIGHT_BYTES = 2**30
# All that safetensors and torch's unpickler were seen to raise on damaged bytes, cut and changed at every place.
UNREADABLE: tuple[type[Exception], ...] = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
)
UNREADABLE += (zipfile.BadZipFile, AttributeError, AssertionError, OSError, OverflowError, struct.error)
FIRST = "features.0.0.weight"  # of every network here, below whatever names a larger module puts in front
KEYS = ("state_dict", "model_state_dict", "model", "net", "state", "ema", "average")
"""Where training checkpoints keep their tensors; of several the first."""
COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside its `module.`
HOW = "save it with torch.save(model.state_dict(), PATH)"


def check_file(path: Path) -> None:
    """Raises ModelError where a file is absent, or larger than any weights of ours."""
    if not path.is_file():
        raise ModelError(f"{path} must be a weights file, but there is no such file")
    if path.stat().st_size > MAX_WEIGHT_BYTES:
        raise ModelError(
            f"{path} must be at most {MAX_WEIGHT_BYTES >> 20} MiB, but has {path.stat().st_size >> 20} MiB"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a torch checkpoint. Nothing in the file is executed.

    A training checkpoint that keeps its tensors under one of `KEYS` is unwrapped, and what DDP, torch.compile and
    others put in front of its names is taken off, with what does not belong to it. Raises ModelError where the file is
    absent, damaged, too large, or holds code or several networks.
    """
    check_file(path)
    try:
        if zipfile.is_zipfile(path):  # what torch.save writes uncompressed; compressed zeros would expand without end
            with zipfile.ZipFile(path) as packed:
                expanded = sum(info.file_size for info in packed.infolist())
            if expanded > MAX_WEIGHT_BYTES:
                raise ModelError(f"{path} must expand to at most {MAX_WEIGHT_BYTES >> 20} MiB, but does to more")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's guesses about the file; the error below is the word
            plain = path.suffix.lower() == ".safetensors"
            state = load_file(path) if plain else torch.load(path, "cpu", weights_only=True)
    except PermissionError:
        raise  # not damaged: the command line says what it is
    except UNREADABLE as error:
        code = f"holds code instead of tensors alone; {HOW}"
        cause = code if "GLOBAL" in str(error) else "is damaged or of another format"
        raise ModelError(f"{path} must be safetensors or a torch checkpoint of tensors, but it {cause}") from error
    for key in KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        came = f"has the entries {', '.join(list(map(str, state))[:5])}" if isinstance(state, dict) else "holds none"
        raise ModelError(f"{path} must hold a dictionary of tensors alone, but {came[:200]}; {HOW}")
    if odd := [k for k, v in state.items() if v.device.type != "cpu" or v.layout != torch.strided or v.is_quantized]:
        raise ModelError(f"{path} must hold ordinary tensors with their numbers, but {odd[0]} is none; save it again")
    if sum(v.numel() * v.element_size() for v in state.values()) > MAX_WEIGHT_BYTES:  # a view repeats what is stored
        raise ModelError(f"{path} must hold tensors of at most {MAX_WEIGHT_BYTES >> 20} MiB, but holds more")
    return unwrap({str(key): value for key, value in state.items()}, path)


def unwrap(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The network alone, where it is a part of a larger module: of DDP, torch.compile, or Lightning with its loss.

    Raises ModelError where there are several such parts.
    """
    parts = {key.removesuffix(FIRST) for key in state if key == FIRST or key.endswith(f".{FIRST}")}
    if len(parts) > 1:
        names = " and ".join(repr(part) for part in sorted(parts))
        raise ModelError(f"{path} must hold one network, but holds several, below {names}; save one alone")
    part = parts.pop() if parts else ""
    return {key.removeprefix(part): value for key, value in state.items() if key.startswith(part) and key != COUNTER}


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Loads `path` strictly: every tensor, in its shape. Raises ModelError with the first differences."""
    fit_weights(model, read_weights(path), path, name)


def fit_weights(model: nn.Module, state: dict[str, Tensor], path: Path, name: str) -> None:
    """`load_weights`, of tensors that were read from `path`."""
    own = model.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or unknown or shapes:
        parts = [f"{len(missing)} tensors missing ({missing[0]})"] if missing else []
        parts += [f"{len(unknown)} unknown ({unknown[0]})"] if unknown else []
        parts += [f"{len(shapes)} of another shape ({shapes[0]})"] if shapes else []
        labels = ", or of other labels (`export --spec`)" if any(s.startswith("head.linear") for s in shapes) else ""
        raise ModelError(
            f"{path} must hold the weights of {name}, but has {', '.join(parts)}; is it another architecture{labels}?"
        )
    check_floating(state, own, path)
    cast = {k: state.get(k, own[k]).to(own[k].dtype) for k in own}
    check_finite(cast, path)  # float64 may hold more than float32 does
    model.load_state_dict(cast)


def load_imagenet(model: MobileNetV2, path: Path) -> None:
    """Loads ImageNet features into the network; a StRA block starts as the conv it replaces, the head stays as it is.

    The names are `features.N.conv.M`, or torchvision's. Raises ModelError where a tensor is missing, of another shape
    or not finite.
    """
    state, own = read_features(path), model.state_dict()
    block, index = f"features.{len(model.features) - 2}.conv.", model.slot_block.slot_index
    slot, name = model.slot_block.conv[index], f"{block}{index}."
    wanted = [k for k in own if k.startswith("features.") and not k.endswith("num_batches_tracked")]
    shapes = {k: tuple(own[k].shape) for k in wanted if not k.startswith(name)}
    shapes[f"{name}weight"] = (*shapes[f"{block}{index + 1}.weight"], 1, 3, 3)  # as many channels as the BN behind it
    for key, shape in shapes.items():
        if key not in state or tuple(state[key].shape) != shape:
            came = tuple(state[key].shape) if key in state else "nothing"
            raise ModelError(f"{path} must hold ImageNet features; {key} must be {shape}, but got {came}")
    taken = {key: state[key] for key in shapes}
    check_floating(taken, own, path)
    check_finite(taken, path)
    if isinstance(slot, StRA):
        slot.start_as(state[f"{name}weight"])
        del shapes[f"{name}weight"]
    model.load_state_dict({k: state[k] for k in shapes}, strict=False)


NESTED = re.compile(r"(features\.\d+\.conv)\.(\d+)\.(0|1)\.(.+)")
SINGLE = re.compile(r"(features\.\d+\.conv)\.(\d+)\.(\D.*)")


def read_features(path: Path) -> dict[str, Tensor]:
    """Weights under this project's names, where torchvision's are in the file.

    torchvision puts each conv with its BN and ReLU6 into a module of its own, `conv.I.0` and `conv.I.1`, but not the
    last conv and BN of a block; here they stand in a row, three places for each.
    """
    state = read_weights(path)
    triples: dict[str, int] = {}  # how many modules of three a block has
    for match in filter(None, map(NESTED.fullmatch, state)):
        triples[match[1]] = max(triples.get(match[1], 0), int(match[2]) + 1)
    renamed = {}
    for key, value in state.items():
        nested, single = NESTED.fullmatch(key), SINGLE.fullmatch(key)
        if nested:
            key = f"{nested[1]}.{3 * int(nested[2]) + int(nested[3])}.{nested[4]}"
        elif single and (count := triples.get(single[1])):
            key = f"{single[1]}.{int(single[2]) + 2 * count}.{single[3]}"
        renamed[key] = value
    return renamed


def check_floating(state: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    """Raises ModelError, naming the first tensor of integers where the network's own, `own`, are not."""
    floats = [k for k in state if k not in own or own[k].is_floating_point()]  # not own: a conv that StRA starts as
    if codes := [k for k in floats if not state[k].is_floating_point()]:
        raise ModelError(
            f"{path} must hold floating-point weights, but {codes[0]} is {state[codes[0]].dtype}: codes of a quantized "
            "network, say; give the weights from before that"
        )


def check_finite(state: dict[str, Tensor], path: Path) -> None:
    """Raises ModelError, naming the first tensor that holds NaN or infinity."""
    if bad := [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]:
        raise ModelError(f"{path} must hold finite numbers, but {bad[0]} has NaN or infinity")


def save_weights(model: nn.Module, path: Path, dtype: torch.dtype | None = None, name: str | None = None) -> None:
    """Writes safetensors through a temporary file; `dtype` (float16) is for the floating-point tensors.

    `name`, the model's in the registry, is kept in the file for `weights_model`. Raises ModelError where a finite
    number is too large for `dtype`, OutputError where the place can't be written; then nothing is.
    """
    state = {
        key: convert(key, value, dtype if value.is_floating_point() else None).contiguous()
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(state, temporary, {"model": name} if name else None)
        temporary.chmod(0o644)  # safetensors keeps files to their owner; these hold nobody's secrets
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path} can't be written: {first_line(error)}; look at the disk and at permissions"
        ) from error


def convert(key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor in another type. Raises ModelError where a finite number becomes infinite."""
    result = value.to(dtype) if dtype else value
    if dtype and bool((value.isfinite() & result.isinf()).any()):
        raise ModelError(
            f"{key} must fit {dtype} (at most {torch.finfo(dtype).max:g}), but holds {float(value.abs().max()):g}; "
            "keep these weights in float32"
        )
    return result


def weights_model(path: Path) -> str | None:
    """The name of the model that a .safetensors file says its weights are of; None where the file does not say.

    Raises ModelError where the file is absent, too large or damaged.
    """
    check_file(path)
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("model")
    except PermissionError:
        raise  # not damaged: the command line says what it is
    except UNREADABLE as error:
        raise ModelError(f"{path} must be a safetensors file, but is damaged or of another format") from error


def model_of(path: Path, given: str | None) -> str:
    """The model that a file's weights are of: what the file says, or what a user gave for one that does not say it.

    Raises ModelError where neither says it, or both and not the same.
    """
    said = weights_model(path)
    if said and given and said != given:
        raise ModelError(f"{path} holds weights of {said}, but --model names {given}; leave --model out")
    if not (said or given):
        raise ModelError(f"{path} must say which model its weights are of, but does not; name it with --model")
    return said or str(given)
