"""The part of Core ML's protobuf specification that an ML Program needs, as field numbers.

Facts from Model.proto, FeatureTypes.proto and MIL.proto of apple/coremltools (mlmodel/format, BSD-3-Clause). A test
holds every line against the classes that coremltools ships. Fields that are not listed are skipped while parsing.
"""

from __future__ import annotations

from typing import Any

from edge_stra.extras import install_command
from edge_stra.spec import MissingError

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.message import DecodeError
except ModuleNotFoundError as error:
    raise MissingError(f"protobuf is not installed; run: {install_command('coreml')}") from error

__all__ = ["DATA_TYPES", "MESSAGES", "DecodeError", "new_model"]

# Message: "number name type" for each field, * for repeated. A map is a repeated entry of key 1 and value 2.
MESSAGES: dict[str, str] = {
    "Model": "1 specificationVersion int32, 2 description ModelDescription, 502 mlProgram Program",
    "ModelDescription": "1 input FeatureDescription*, 10 output FeatureDescription*, 13 state FeatureDescription*, "
    "11 predictedFeatureName string, 12 predictedProbabilitiesName string, 20 functions FunctionDescription*, "
    "21 defaultFunctionName string, 100 metadata Metadata",
    "FunctionDescription": "1 name string, 2 input FeatureDescription*, 3 output FeatureDescription*, "
    "4 predictedFeatureName string, 5 predictedProbabilitiesName string, 6 state FeatureDescription*",
    "FeatureDescription": "1 name string, 2 shortDescription string, 3 type FeatureType",
    "Metadata": "1 shortDescription string, 2 versionString string, 3 author string, 4 license string, "
    "100 userDefined TextEntry*",
    "TextEntry": "1 key string, 2 value string",
    "FeatureType": "1 int64Type Empty, 2 doubleType Empty, 3 stringType Empty, 4 imageType ImageFeatureType, "
    "5 multiArrayType ArrayFeatureType, 6 dictionaryType Empty, 1000 isOptional bool",
    "Empty": "",
    "ImageFeatureType": "1 width int64, 2 height int64, 3 colorSpace enum, 21 enumeratedSizes EnumeratedImageSizes, "
    "31 imageSizeRange ImageSizeRange",
    "EnumeratedImageSizes": "1 sizes ImageSize*",
    "ImageSize": "1 width uint64, 2 height uint64",
    "ImageSizeRange": "1 widthRange SizeRange, 2 heightRange SizeRange",
    "SizeRange": "1 lowerBound uint64, 2 upperBound int64",
    "ArrayFeatureType": "1 shape int64*, 2 dataType enum, 21 enumeratedShapes EnumeratedShapes, "
    "31 shapeRange ShapeRange, 41 intDefaultValue int32, 51 floatDefaultValue float, 61 doubleDefaultValue double",
    "EnumeratedShapes": "1 shapes Shape*",
    "Shape": "1 shape int64*",
    "ShapeRange": "1 sizeRanges SizeRange*",
    "Program": "1 version int64, 2 functions FunctionEntry*",
    "FunctionEntry": "1 key string, 2 value Function",
    "Function": "1 inputs NamedValueType*, 2 opset string, 3 block_specializations BlockEntry*",
    "BlockEntry": "1 key string, 2 value Block",
    "Block": "1 inputs NamedValueType*, 2 outputs string*, 3 operations Operation*",
    "Operation": "1 type string, 2 inputs ArgumentEntry*, 3 outputs NamedValueType*, 4 blocks Block*, "
    "5 attributes ValueEntry*",
    "ArgumentEntry": "1 key string, 2 value Argument",
    "Argument": "1 arguments Binding*",
    "Binding": "1 name string, 2 value Value",
    "ValueEntry": "1 key string, 2 value Value",
    "NamedValueType": "1 name string, 2 type ValueType",
    "ValueType": "1 tensorType TensorType, 2 listType ListType, 3 tupleType Empty, 4 dictionaryType Empty, "
    "5 stateType Empty",
    "TensorType": "1 dataType enum, 2 rank int64, 3 dimensions Dimension*",
    "ListType": "1 type ValueType, 2 length Dimension",
    "Dimension": "1 constant ConstantDimension, 2 unknown UnknownDimension",
    "ConstantDimension": "1 size uint64",
    "UnknownDimension": "1 variadic bool",
    "Value": "2 type ValueType, 3 immediateValue ImmediateValue, 5 blobFileValue BlobFileValue",
    "ImmediateValue": "1 tensor TensorValue, 3 list ListValue",
    "ListValue": "1 values Value*",
    "BlobFileValue": "1 fileName string, 2 offset uint64",
    "TensorValue": "1 floats Floats, 2 ints Ints, 3 bools Bools, 4 strings Strings, 5 longInts LongInts, "
    "6 doubles Doubles, 7 bytes Bytes",
    "Floats": "1 values float*",
    "Doubles": "1 values double*",
    "Ints": "1 values int32*",
    "LongInts": "1 values int64*",
    "Bools": "1 values bool*",
    "Strings": "1 values string*",
    "Bytes": "1 values bytes",
}
DATA_TYPES: dict[int, str] = {
    1: "bool", 2: "string", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32",
    24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 35: "uint4", 36: "uint2", 37: "uint1",
    38: "uint6", 39: "uint3",
}  # fmt: skip
"""MIL's DataType by number. Those that are left out (bfloat16, two kinds of float8, uint64) are refused by number."""

# An enum is read as the number that it is: a number of a later version must not fail.
SCALARS = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "enum": 5, "bool": 8, "string": 9, "bytes": 12}
PACKAGE = "edge_stra.mil"


def fields_of(message: str) -> list[tuple[int, str, str, bool]]:
    """(number, name, type, repeated) of each listed field of a message."""
    found = []
    for line in filter(None, MESSAGES[message].split(", ")):
        number, name, kind = line.split(" ")
        found.append((int(number), name, kind.rstrip("*"), kind.endswith("*")))
    return found


def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="edge_stra_mil.proto", package=PACKAGE, syntax="proto3")
    for message in MESSAGES:
        made = file.message_type.add(name=message)
        for number, name, kind, repeated in fields_of(message):
            field = made.field.add(name=name, number=number, label=3 if repeated else 1, type=SCALARS.get(kind, 11))
            if kind not in SCALARS:
                field.type_name = f".{PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()  # of our own: coremltools registers the real ones in the default pool
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Model"))


_MODEL = _model_class()


def new_model(data: bytes) -> Any:
    """The parsed specification. Raises DecodeError where the bytes are no protobuf of it."""
    made = _MODEL()
    made.ParseFromString(data)
    return made
