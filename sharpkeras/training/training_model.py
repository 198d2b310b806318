"""Final training: a network, its optimizer, and a step with auxiliary loss, drop path and label smoothing (§3.3)."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from sharpkeras.engine.step_model import StepModel, accuracy, cross_entropy, global_norm, root_mean_square, values
from sharpkeras.optimizers import SGD


class TrainingModel(StepModel):
    """A network under training. Data is a batch (images, labels), with uniforms behind it if there is an augmentation.

    Args:
        network: keras.Model of images → {"logits": …, "auxiliary": … if it has an auxiliary head}.
        optimizer: optimizers.SGD, with a schedule and clipping.
        auxiliary_weight: of the auxiliary head's loss; 0.4 in the paper.
        label_smoothing: ε; 0.1 for ImageNet.
    """

    def __init__(
        self,
        network: keras.Model,
        optimizer: SGD,
        auxiliary_weight: float = 0.4,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self.network, self.auxiliary_weight, self.label_smoothing = network, auxiliary_weight, label_smoothing
        self.weight_optimizer, self.optimizers = optimizer, [optimizer]
        optimizer.build(network.trainable_variables)
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        return self.network(self._normalize(images), training=training)["logits"]

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Context in which the network has the moving average of its weights, if the optimizer keeps one.

        The statistics of BatchNorm are moving averages of their own. Not for use within a step; call `sync` before.
        """
        pairs = list(zip(self.network.trainable_variables, self.weight_optimizer.averages))
        own = [variable.numpy() for variable, _ in pairs]
        try:
            for variable, average in pairs:
                variable.assign(average)
            yield
        finally:
            for (variable, _), value in zip(pairs, own):
                variable.assign(value)

    def network_loss(self, weights: list, batch: tuple) -> tuple:
        """CE(logits) + auxiliary_weight · CE(auxiliary), and (logits, the other variables after the pass)."""
        images, labels = batch
        others = values(self.network.non_trainable_variables)
        outputs, others = self.network.stateless_call(weights, others, images, training=True)
        loss = cross_entropy(labels, outputs["logits"], self.label_smoothing)
        if "auxiliary" in outputs:
            loss += self.auxiliary_weight * cross_entropy(labels, outputs["auxiliary"], self.label_smoothing)
        return loss, (outputs["logits"], others)

    def update(self, gradient: Callable, data: tuple) -> dict[str, Any]:
        """One step of the optimizer; the logs are loss and share of right answers, in training mode, and norms."""
        batch, weights = self.prepared(data), self.network.trainable_variables
        loss, (logits, others), gradients = gradient(lambda w: self.network_loss(w, batch), values(weights))
        self.weight_optimizer.apply(gradients, weights)
        for variable, value in zip(self.network.non_trainable_variables, others):
            variable.assign(value)
        norms = {"weight_gradient_norm": global_norm(gradients), "image_rms": root_mean_square(batch[0])}
        return {"train_loss": loss, "train_accuracy": accuracy(batch[1], logits), **norms}
