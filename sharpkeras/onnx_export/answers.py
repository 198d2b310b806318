"""Top-1 accuracy of a file beside that of the network it was exported from, on the same images."""

import numpy as np

from sharpkeras.errors import NumericalError
from sharpkeras.measure.accuracy import ErrorRate
from sharpkeras.measure.statistics import mcnemar
from sharpkeras.onnx_export.verification import logits

BATCH_SIZE = 64


def of_model(model, images):
    """(N,) answers of a Keras model; raises NumericalError where logits are not finite."""
    return _classes(np.asarray(model.predict(images, batch_size=BATCH_SIZE, verbose=0)))


def of_file(session, images):
    """(N,) answers of a file; raises NumericalError where logits are not finite."""
    starts = range(0, len(images), BATCH_SIZE)
    return _classes(np.concatenate([logits(session, images[start : start + BATCH_SIZE]) for start in starts]))


def _classes(values):
    if not np.isfinite(values).all():
        raise NumericalError("logits are not finite", seen=f"{(~np.isfinite(values)).sum()} values")
    return values.argmax(axis=1)


def beside(first, second, labels, names):
    """Two networks on the same images: the error of each with its interval, and whether they differ.

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
