"""Images, of which only the header is read, and ONNX files, checked as before a benchmark."""

import math
from pathlib import Path
from typing import Any

from sharpkeras.data.decoding import BOMBS, BROKEN, kind_of, open_image
from sharpkeras.data.transforms import MAX_PIXELS
from sharpkeras.errors import DataError
from sharpkeras.inspection.report import Report
from sharpkeras.io.onnx_files import made_for, read_onnx
from sharpkeras.measure import saturation


def inspect_image(path: Path) -> Report:
    """The Report on an image; raises DataError for a broken or too large one."""
    try:
        with open_image(path) as image:
            size = f"{image.width} × {image.height} pixels"
            facts = {"format": image.format, "size": size, "pixels": kind_of(image), "read": "the header alone"}
    except BOMBS as error:
        raise _broken(path, str(error) or "too many pixels") from None
    except BROKEN as error:
        raise _broken(path, str(error)) from None
    return Report(str(path), "an image", facts)


def _broken(path: Path, seen: str) -> DataError:
    allowed = f"JPEG, PNG or BMP, at most {MAX_PIXELS:,} pixels"
    return DataError("is no image that can be used", where=str(path), seen=seen, allowed=allowed)


def inspect_onnx(path: Path) -> Report:
    """The Report on an ONNX file that refers to nothing outside itself; raises as `read_onnx`."""
    model = read_onnx(path)
    graph = model.graph
    constants, sums = {tensor.name for tensor in graph.initializer}, saturation.verdict(model)
    facts = {
        "opset": ", ".join(f"{entry.domain or 'ONNX'} {entry.version}" for entry in model.opset_import),
        "nodes": len(graph.node),
        "parameters": sum(math.prod(tensor.dims) for tensor in graph.initializer),
        "inputs": [_words(value) for value in graph.input if value.name not in constants],
        "outputs": [_words(value) for value in graph.output],
        "int8": saturation.words(sums) if sums["largest_sum"] else None,
        "producer": model.producer_name,
        "made for": made_for(model),
        "metadata": sorted(entry.key for entry in model.metadata_props),
    }
    return Report(str(path), "a network (ONNX)", facts, next=["benchmark", str(path)])


def _words(value: Any) -> str:
    sizes = [str(size.dim_param or size.dim_value or "?") for size in value.type.tensor_type.shape.dim]
    return f"{value.name} {'×'.join(sizes)}"
