"""Top-1 accuracy of a file beside that of the network it was exported from, on the same images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpkeras.errors import NumericalError
from sharpkeras.measure.error_rate import ErrorRate
from sharpkeras.measure.statistics import mcnemar
from sharpkeras.onnx_export.verification import logits

if TYPE_CHECKING:
    import keras
    import onnxruntime

BATCH_SIZE = 64


def of_model(model: "keras.Model", images: np.ndarray) -> np.ndarray:
    """(N,) answers of a Keras model; raises NumericalError where logits are not finite."""
    return _classes(np.asarray(model.predict(images, batch_size=BATCH_SIZE, verbose=0)))


def of_file(session: "onnxruntime.InferenceSession", images: np.ndarray) -> np.ndarray:
    """(N,) answers of a file; raises NumericalError where logits are not finite."""
    starts = range(0, len(images), BATCH_SIZE)
    return _classes(np.concatenate([logits(session, images[start : start + BATCH_SIZE]) for start in starts]))


def _classes(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise NumericalError("logits are not finite", seen=f"{(~np.isfinite(values)).sum()} values")
    return values.argmax(axis=1)


def beside(first: np.ndarray, second: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Compare two networks on the same images: the error of each with its interval, and McNemar's test.

    Args:
        first, second: (N,) answers.
        labels: (N,).
        names: of the two, as keys.

    Returns:
        {"n", name: `ErrorRate.as_dict` of both, "different_answers", "mcnemar_p", "mcnemar"}.
    """
    right = [answers == labels for answers in (first, second)]
    test = mcnemar(*right)
    errors = [ErrorRate(int((~correct).sum()), len(labels)).as_dict() for correct in right]
    report = {"n": len(labels)} | dict(zip(names, errors))
    return report | {"different_answers": int((first != second).sum()), "mcnemar_p": test.p, "mcnemar": str(test)}
