"""The example in exported/ is what its card says."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from support.without_vnni import answers  # noqa: E402

from sharpkeras.data import load  # noqa: E402
from sharpkeras.measure import saturation  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "exported" / "digits.onnx"
OTHER_PROCESSORS = 3  # images on which another processor may round otherwise


@pytest.fixture(scope="module")
def card():
    return json.loads(EXAMPLE.with_suffix(".json").read_text())


def test_the_file_is_the_one_that_was_measured(card):
    assert sha256(EXAMPLE.read_bytes()).hexdigest() == card["sha256"]
    assert EXAMPLE.stat().st_size == card["bytes"] < 1e6


def test_it_classifies_digits_as_well_as_it_says(card):
    digits = load("digits", "test")
    session = onnxruntime.InferenceSession(EXAMPLE, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": np.asarray(digits.images)})  # pixels as they are stored
    errors = int((logits.argmax(axis=1) != digits.labels).sum())
    said = card["quantization"]["int8"]
    assert len(digits.labels) == card["quantization"]["n"] and said["error"] < 0.03
    assert abs(errors - said["errors"]) <= OTHER_PROCESSORS
    assert card["classes"] == list(digits.class_names)


def test_its_sums_are_never_cut_off_as_it_says(card):
    said, found = card["quantization"], saturation.verdict(onnx.load(EXAMPLE))
    assert said["weight_bits"] == 7 and said["right_on"] == "every processor" and not said["could_saturate"]
    assert said.items() >= found.items()


def test_it_classifies_digits_as_well_without_vnni(card):
    """In NumPy: a file of 8 bits, of the same network, has 14 errors then, where it has 3 with VNNI."""
    digits = load("digits", "test")
    logits = answers(onnx.load(EXAMPLE), np.asarray(digits.images), saturates=True)
    errors = int((logits.argmax(axis=1) != digits.labels).sum())
    assert abs(errors - card["quantization"]["int8"]["errors"]) <= OTHER_PROCESSORS
