"""ONNX files of strangers: what reads and refuses them. Nothing of one reaches ONNX Runtime before these checks."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpkeras.errors import ConfigError, SafetyError, UsageError, printable

if TYPE_CHECKING:
    import onnx

LARGEST_FILE = 2 * 2**30  # bytes; the limit of a protobuf
INSTALL = "pip install onnx onnxruntime"
TARGETS = ("avx2", "avx512", "arm", "gpu")  # processors that `sharpkeras export` makes files for
ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


def read_onnx(path: str | os.PathLike[str]) -> "onnx.ModelProto":
    """The file as an `onnx.ModelProto` that refers to nothing outside itself.

    Raises:
        UsageError: if there is no such file.
        SafetyError: if it refers to other files or to operators that only a custom library has.
        ConfigError: if it is too large or no valid ONNX model, or a name in it is no text.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("is not a regular file" if path.exists() else "there is no such file", where=path)
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ConfigError("too large for an ONNX file", where=path, seen=f"{size} bytes", allowed="2 GiB")
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ConfigError(f"the package {error.name} is missing", next_step=INSTALL) from error
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        refuse_unreadable(model, path)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ConfigError("not an ONNX file, or a damaged one", where=path, seen=str(error)) from error
    refuse_unsafe(model, path)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker also lets C++ exceptions through
        raise ConfigError("not a valid ONNX model", where=path, seen=first_line(error)) from error
    return model


def refuse_unreadable(model: "onnx.ModelProto", path: str | os.PathLike[str]) -> None:
    """Raise ConfigError for a name or another text that is no UTF-8, which protobuf hands on as bytes."""
    for message in onnx_messages(model):
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING:
                for text in [value] if isinstance(value, (str, bytes)) else value:
                    if isinstance(text, bytes):
                        problem = f"a text in it is no UTF-8: {field.name} of {message.DESCRIPTOR.name}"
                        raise ConfigError(problem, where=path, seen=text, allowed="names in UTF-8")


def refuse_unsafe(model: "onnx.ModelProto", path: str | os.PathLike[str]) -> None:
    """Raise SafetyError for external data, wherever it hides, and for operators of a custom library."""
    for message in onnx_messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto" and (message.external_data or message.data_location == message.EXTERNAL):
            location = next((entry.value for entry in message.external_data if entry.key == "location"), "")
            problem = f"the tensor {printable(message.name)!r} is to be read from another file"
            raise SafetyError(problem, where=path, seen=location, allowed="data inside the ONNX file")
        if kind in ("NodeProto", "FunctionProto") and message.domain not in ONNX_DOMAINS:
            operator = getattr(message, "op_type", None) or message.name
            problem = f"the operator {printable(operator)!r} would need a custom library"
            raise SafetyError(problem, where=path, seen=message.domain, allowed="operators of ONNX itself")


def onnx_messages(message: Any) -> Iterator[Any]:
    """`message` and every protobuf message in it: nodes, tensors, and those of subgraphs and functions."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in value if hasattr(value, "__len__") else [value]:
                yield from onnx_messages(child)


def made_for(model: "onnx.ModelProto") -> str | None:
    """The processor, out of TARGETS, that `sharpkeras export` made a file for; None where the file does not tell."""
    told = {entry.key: entry.value.strip('"') for entry in model.metadata_props}.get("target")
    return told if told in TARGETS else None


def declared_input(
    model: "onnx.ModelProto", batch_size: int, path: str | os.PathLike[str]
) -> tuple[str, list[int], str]:
    """(name, shape with the batch size put in, NumPy dtype) of the model's one input.

    Raises:
        UsageError: if there is not one input of a static shape, or the batch size is fixed to another one.
    """
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise UsageError("expected a model with one input", where=path, seen=[value.name for value in inputs])
    tensor = inputs[0].type.tensor_type
    declared: list[Any] = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    if not declared or not all(isinstance(size, int) for size in declared[1:]):
        allowed = "static sizes but for the batch, such as ['batch', 32, 32, 3]"
        raise UsageError("the model's declared input shape is not static", where=path, seen=declared, allowed=allowed)
    if isinstance(declared[0], int) and declared[0] != batch_size:
        problem = f"the model's batch size is fixed, {batch_size} does not fit"
        raise UsageError(problem, where=path, seen=declared, next_step=f"use `batch_size={declared[0]}`")
    known = tensor.elem_type in onnx.helper.get_all_tensor_dtypes()  # a file may have any number there
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type) if known else None
    if dtype is None or dtype.kind not in "fui":
        seen = str(dtype or f"type {tensor.elem_type}")
        raise UsageError("the model's input is no image", where=path, seen=seen, allowed="floats or integers")
    return inputs[0].name, [batch_size, *declared[1:]], dtype.name


def first_line(error: BaseException) -> str:
    """First line of an exception's message, since those of ONNX run over many."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
