"""Search model: a supernet, its alphas, two optimizers, and a training step with the bilevel update."""

from collections.abc import Callable
from typing import Any

import keras
from keras.initializers import Constant

from sharpkeras.backend.precision import full_precision
from sharpkeras.engine.step_model import StepModel, accuracy, cross_entropy, global_norm, root_mean_square, values
from sharpkeras.searching import bilevel


class SearchModel(StepModel):
    """Differentiable architecture search over any space.

    Data is a pair of batches: (images, labels) for the weights and (images, labels) for the alphas, each with uniforms
    behind it if there is an augmentation. `fit` works, and so does `searching.loop`, which adds checkpoints and the
    architecture of each epoch.

    Args:
        space: a search space (see `sharpkeras.spaces`).
        supernet: its built supernet, a keras.Model of (images, mixing weights).
        weight_optimizer: optimizers.SGD, with a schedule.
        arch_optimizer: optimizers.Adam.
        order: 1, or 2 for the gradient through one unrolled weight step.
        seed: of the initial alphas.
        penalty: alphas → a scalar that joins the loss of the alphas, such as an expected cost; None is none.
    """

    def __init__(
        self,
        space: Any,
        supernet: keras.Model,
        weight_optimizer: Any,
        arch_optimizer: Any,
        order: int = 1,
        seed: int = 0,
        penalty: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(supernet, **kwargs)
        if order not in (1, 2):
            raise ValueError(f"expected order 1 or 2, received {order}")
        self.space, self.supernet, self.order, self.penalty = space, supernet, order, penalty
        self.alphas = [
            self.add_weight(shape=a.shape, initializer=Constant(a), name=f"alphas_{i}")
            for i, a in enumerate(space.init_alphas(seed))
        ]
        self.weight_optimizer, self.arch_optimizer = weight_optimizer, arch_optimizer
        self.optimizers = [weight_optimizer, arch_optimizer]
        weight_optimizer.build(supernet.trainable_variables)
        arch_optimizer.build(self.alphas)
        self.built = True

    def call(self, images: Any, training: bool | None = None) -> Any:
        mixing_weights = self.space.mixing_weights(self.alphas)
        return self.supernet([self._normalize(images), mixing_weights], training=training)

    def supernet_loss(self, weights: list, alphas: list, batch: tuple) -> tuple:
        """Mean cross-entropy at given weights and alphas, in training mode.

        Returns:
            The loss, and (logits (B, classes), the supernet's other variables after the pass).
        """
        images, labels = batch
        inputs = [images, self.space.mixing_weights(alphas)]
        others = values(self.supernet.non_trainable_variables)
        logits, others = self.supernet.stateless_call(weights, others, inputs, training=True)
        return cross_entropy(labels, logits), (logits, others)

    def update(self, gradient: Callable, data: tuple) -> dict[str, Any]:
        """One bilevel step: alphas first, on the validation batch; then weights, on the training batch.

        The moving statistics of BatchNorm follow the training batch alone (the official code's follow both).

        Returns:
            The logs: losses and the share of right answers of both batches, in training mode, and norms in which a
            number that is not finite shows even where a ReLU has swallowed it.
        """
        training, validation = (self.prepared(batch) for batch in data)
        validation_loss, (validation_logits, _), gradients = self._architecture_gradient(gradient, training, validation)
        penalty = {}
        if self.penalty is not None:  # of the alphas alone, so that its gradient simply adds to that of either order
            penalty["penalty"], _, more = gradient(lambda a: (self.penalty(a), ()), values(self.alphas))
            gradients = [part + extra for part, extra in zip(gradients, more)]
        self.arch_optimizer.apply(gradients, self.alphas)
        norms = {"alpha_norm": global_norm(values(self.alphas)), "alpha_gradient_norm": global_norm(gradients)}

        weights, alphas = self.supernet.trainable_variables, values(self.alphas)
        loss, (logits, others), gradients = gradient(lambda w: self.supernet_loss(w, alphas, training), values(weights))
        self.weight_optimizer.apply(gradients, weights)
        norms |= {"weight_gradient_norm": global_norm(gradients), "image_rms": root_mean_square(training[0])}
        for variable, value in zip(self.supernet.non_trainable_variables, others):
            variable.assign(value)
        return {
            "train_loss": loss,
            "train_accuracy": accuracy(training[1], logits),
            "validation_loss": validation_loss,
            "validation_accuracy": accuracy(validation[1], validation_logits),
            **norms,
            **penalty,
        }

    def _architecture_gradient(self, gradient: Any, training: Any, validation: Any) -> Any:
        weights, alphas = values(self.supernet.trainable_variables), values(self.alphas)
        if self.order == 1:
            return bilevel.first_order(self.supernet_loss, gradient, weights, alphas, validation)
        sgd = self.weight_optimizer
        step = (values(sgd.buffers), sgd.learning_rate, sgd.momentum, sgd.l2)
        # In float32 whatever the precision of the supernet: the implicit term is ill-conditioned. With 1.7 million
        # weights its error would be 1.1 times its norm in bfloat16 and 0.6 times in float16. Around the gradient, not
        # the loss: what `rematerialization` computes again runs while the gradient is taken.
        with full_precision(self.supernet):
            return bilevel.second_order(self.supernet_loss, gradient, weights, alphas, training, validation, *step)
