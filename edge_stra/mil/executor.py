"""Runs a program operator by operator: checked and bound once, constants decompressed once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# imported for what they register
from edge_stra.mil import operators_compressed as operators_compressed
from edge_stra.mil import operators_elementwise as operators_elementwise
from edge_stra.mil import operators_network as operators_network
from edge_stra.mil import operators_reduce as operators_reduce
from edge_stra.mil import operators_scatter as operators_scatter
from edge_stra.mil import operators_shape as operators_shape
from edge_stra.mil.images import check_picture, picture_to_tensor, tensor_to_picture
from edge_stra.mil.package import Feature, Package
from edge_stra.mil.program import Constant, Function, Named, Operation, Type
from edge_stra.mil.registry import HELD_AS, OPERATORS, Operator
from edge_stra.spec import ArtifactError, DataError

Reader = Callable[[Any], Any]
UNCOMPUTABLE = (
    RuntimeError, ValueError, IndexError, TypeError, KeyError, AttributeError, ZeroDivisionError, OverflowError,
    MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """An operation with its constants bound. variables: (parameter, names, reader, several) of all other inputs."""

    operation: Operation
    operator: Operator
    constants: Mapping[str, Any]
    variables: tuple[tuple[str, tuple[str, ...], Reader, bool], ...]
    last_used: tuple[str, ...]

    def compute(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The outputs, rounded to their types. Raises ArtifactError where it can't be, or has another shape."""
        given = dict(self.constants)
        try:
            for parameter, names, reader, several in self.variables:
                found = tuple(values[name] for name in names)
                given[parameter] = found if several else reader(found[0])
            results = self.operator.run(**given)
        except UNCOMPUTABLE as error:
            raise ArtifactError(f"{described(self.operation)} can't be computed: {error}") from error
        outputs = results if isinstance(results, tuple) else (results,)
        if len(outputs) != len(self.operation.outputs):
            raise ArtifactError(
                f"{described(self.operation)} must have {len(outputs)} outputs, but has {len(self.operation.outputs)}"
            )
        pairs = zip(outputs, self.operation.outputs, strict=True)
        return tuple(store(value, output, self.operator.moves) for value, output in pairs)


def described(operation: Operation) -> str:
    return f"the operator {operation.kind} {operation.name!r}"


def store(value: Any, output: Named, exact: bool) -> Any:
    """A result as its declared type holds it: float16 rounded, with infinity above 65504; integers wrapped."""
    if not isinstance(value, torch.Tensor):
        return value
    declared = output.type
    if declared.dtype not in HELD_AS or not fits(tuple(value.shape), declared):
        raise ArtifactError(
            f"{output.name!r} must be {declared.dtype} {declared.shape} by the program, "
            f"but comes out as {tuple(value.shape)}"
        )
    held = value.to(HELD_AS[declared.dtype])
    if declared.dtype == "float16" and not exact:
        return held.half().float()
    if declared.dtype in ("uint16", "uint32"):
        return held & (0xFFFF if declared.dtype == "uint16" else 0xFFFFFFFF)
    return held


def fits(shape: tuple[int, ...], declared: Type) -> bool:
    """Whether a shape is the declared one, where that is known."""
    pairs = zip(shape, declared.shape, strict=False)
    return len(shape) == len(declared.shape) and all(size is None or came == size for came, size in pairs)


@dataclass(frozen=True)
class Executor:
    """A program that is ready to run. `run` keeps no state and may be called from several threads."""

    package: Package
    steps: tuple[Step, ...]
    constants: Mapping[str, Any]

    def run(self, inputs: Mapping[str, Any], wanted: Sequence[str] = ()) -> dict[str, Any]:
        """All outputs by name, and the named intermediate values.

        inputs: an array for each input of `package.inputs`; an image is uint8 or float [H, W, 3] in the order of
        channels that its type says, or [H, W] if grey, 0 to 255. Arrays come back in the program's types, an image as
        uint8 [H, W, 3], a classifier's label as str or int and its probabilities as a dict.
        Raises DataError for inputs that do not fit, ArtifactError for a program that can't be computed.
        """
        names = [feature.name for feature in self.package.outputs]
        kept = {*names, *wanted}
        with torch.inference_mode():
            values: dict[str, Any] = {**self.constants, **self._read_inputs(inputs)}
            types = {named.name: named.type for named in self._known_types()}
            unknown = [name for name in wanted if name not in types]
            if unknown:
                raise DataError(f"the program has no value {unknown[0]!r}; `edge-stra mil --operators` lists all")
            for step in self.steps:
                outputs = step.compute(values)
                for output, value in zip(step.operation.outputs, outputs, strict=True):
                    values[output.name] = value
                for name in step.last_used:
                    if name not in kept:
                        del values[name]
            made = {name: to_array(values[name], types[name]) for name in kept}
        for feature in self.package.outputs:
            if feature.kind == "image":
                made[feature.name] = tensor_to_picture(feature, made[feature.name])
        return {name: made[name] for name in (*names, *(name for name in wanted if name not in names))}

    def _known_types(self) -> Iterable[Named]:
        function = self.package.function
        yield from function.inputs
        for operation in function.operations:
            yield from operation.outputs

    def _read_inputs(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        features = {feature.name: feature for feature in self.package.inputs}
        strange = sorted(set(inputs) - set(features))
        if strange:
            raise DataError(f"inputs must be {sorted(features)}, but {strange[0]!r} came")
        return {
            named.name: read_input(features[named.name], named, inputs.get(named.name))
            for named in self.package.function.inputs
        }


def read_input(feature: Feature, named: Named, given: Any) -> torch.Tensor:
    """An input as the program's type holds it. Raises DataError where it is missing or has not the type's shape."""
    if given is None:
        if not feature.optional:
            raise DataError(f"the input {feature.name!r} of shape {feature.shape} is missing")
        given = np.full(feature.shape, feature.default, np.float32)
    array = np.asarray(given)
    if array.dtype.kind not in "fiub":
        raise DataError(f"the input {feature.name!r} must be an array of numbers, but is {array.dtype}")
    if feature.kind == "image":
        check_picture(feature, array)
        array = picture_to_tensor(array)
    elif not feature.allows(array.shape):
        raise DataError(f"the input {feature.name!r} must be of shape {feature.shape}, but is {array.shape}")
    if not fits(array.shape, named.type):
        raise DataError(f"the input {feature.name!r} must be of shape {named.type.shape}, but is {array.shape}")
    return to_tensor(array, named.type.dtype, rounded=False)


def to_tensor(array: NDArray[Any], dtype: str, rounded: bool = True) -> torch.Tensor:
    """An array as a tensor that holds a MIL type. rounded: whether its values have that type already."""
    wide = {"float16": np.float32, "uint16": np.int32, "uint32": np.int64}
    same = np.ascontiguousarray(array, wide.get(array.dtype.name)).reshape(array.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a view of the mapped file can't be written; nothing does
        made = torch.from_numpy(same).to(HELD_AS[dtype])
    return made if rounded or dtype != "float16" else made.half().float()


def to_array(value: Any, declared: Type) -> Any:
    """A value as users get it: an array of the program's type; labels and probabilities as they are."""
    if not isinstance(value, torch.Tensor):
        return value
    array = value.numpy()
    return array.astype(declared.dtype if declared.dtype in np.sctypeDict else array.dtype)


def compile_package(package: Package) -> Executor:
    """Checks every operation, then binds them. Raises ArtifactError; nothing of the program was run before that."""
    function = package.function
    check_operations(function)
    for feature in (*package.inputs, *package.outputs):
        known = function.outputs if feature in package.outputs else [named.name for named in function.inputs]
        if feature.name not in known:
            raise ArtifactError(f"the program must have {feature.name!r} of the description, but has {sorted(known)}")
    described_names = {feature.name for feature in package.inputs}
    missing = [named.name for named in function.inputs if named.name not in described_names]
    if missing:
        raise ArtifactError(f"the description must have the program's input {missing[0]!r}, but does not")
    for named in function.inputs:
        if named.type.dtype not in HELD_AS:
            raise ArtifactError(
                f"the program's input {named.name!r} must be an array of numbers, but is of type {named.type.dtype!r}"
            )
    constants: dict[str, Any] = {}
    steps: list[Step] = []
    with torch.inference_mode():
        for operation in function.operations:
            if operation.kind == "const":
                (constant,) = operation.inputs["val"]
                constants[operation.outputs[0].name] = plain_value(constant)
                continue
            step = bind(operation, constants)
            if step.variables:
                steps.append(step)
                continue
            results = step.compute({})
            constants.update({output.name: value for output, value in zip(operation.outputs, results, strict=True)})
    return Executor(package, with_last_uses(steps, constants), constants)


def check_operations(function: Function) -> None:
    """Raises ArtifactError for operators that are not known, all by name, and for values used before they are made."""
    unknown = sorted({o.kind for o in function.operations if o.kind != "const" and o.kind not in OPERATORS})
    if unknown:
        raise ArtifactError(
            f"the program needs {', '.join(unknown)}, which this executor does not know; nothing was run "
            f"({len(OPERATORS)} operators are known)"
        )
    made = {named.name for named in function.inputs}
    for operation in function.operations:
        used = [name for names in operation.inputs.values() for name in names if isinstance(name, str)]
        early = [name for name in used if name not in made]
        if early:
            raise ArtifactError(f"{described(operation)} uses {early[0]!r}, which nothing before it makes")
        made |= {output.name for output in operation.outputs}
        if operation.kind == "const":
            continue
        known = OPERATORS[operation.kind]
        strange = sorted(set(operation.inputs) - set(known.readers))
        lacking = sorted(known.required - set(operation.inputs))
        if strange or lacking:
            what = f"has the unknown {strange[0]!r}" if strange else f"lacks {lacking[0]!r}"
            raise ArtifactError(f"{described(operation)} must have the inputs {sorted(known.readers)}, but {what}")
    absent = [name for name in function.outputs if name not in made]
    if absent:
        raise ArtifactError(f"the program must make its output {absent[0]!r}, but no operator does")


def plain_value(constant: Any) -> Any:
    """A constant as operators take it: a tensor, or what is no array as it is."""
    value = constant.value
    return to_tensor(value, constant.dtype) if isinstance(value, np.ndarray) else value


def bind(operation: Operation, constants: Mapping[str, Any]) -> Step:
    """The step of an operation; parameters whose values are all known are read now."""
    known = OPERATORS[operation.kind]
    bound: dict[str, Any] = {}
    variables = []
    for parameter, given in operation.inputs.items():
        several = parameter in known.variadic
        reader = known.readers[parameter]
        if all(isinstance(value, Constant) or value in constants for value in given):
            values = tuple(plain_value(v) if isinstance(v, Constant) else constants[v] for v in given)
            try:
                bound[parameter] = values if several else reader(values[0])
            except UNCOMPUTABLE as error:
                raise ArtifactError(f"{described(operation)} can't read its {parameter}: {error}") from error
        elif all(isinstance(value, str) for value in given):
            variables.append((parameter, tuple(v for v in given if isinstance(v, str)), reader, several))
        else:
            raise ArtifactError(f"{described(operation)} must have names or constants as {parameter}, but has both")
    return Step(operation, known, bound, tuple(variables), ())


def with_last_uses(steps: list[Step], constants: Mapping[str, Any]) -> tuple[Step, ...]:
    """The steps with the names that no later one needs, so that their memory is free for others."""
    seen: set[str] = set()
    made: list[Step] = []
    for step in reversed(steps):
        names = {name for _, used, _, _ in step.variables for name in used}
        names |= {output.name for output in step.operation.outputs}
        last = tuple(sorted(names - seen - set(constants)))
        seen |= names
        made.append(Step(step.operation, step.operator, step.constants, step.variables, last))
    return tuple(reversed(made))
