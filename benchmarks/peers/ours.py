"""The compiled steps of sharpkeras, as `turns` measures them. Keras is imported when a form is made."""

from typing import Any

import numpy as np

NUM_CLASSES = 10
LEARNING_RATE, ARCH_LEARNING_RATE = 0.025, 3e-4
DROP_PATH = 0.1  # in the middle of a training that ends at 0.2


def batch(batch_size: int, image_size: int, precision: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Random images (B, H, W, 3) and labels (B,)."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, image_size, image_size, 3)).astype(
        "float64" if precision == "float64" else "float32"
    )
    return images, rng.integers(0, NUM_CLASSES, batch_size).astype("int32")


class Ours:
    """What our forms share.

    Args:
        model: a StepModel.
        network: its network or supernet.
        data: what a step takes.
        imported: when the modules were there, by `time.perf_counter`.
    """

    def __init__(self, model: Any, network: Any, data: Any, imported: float) -> None:
        self.model, self.network, self.data, self.imported = model, network, data, imported
        self.compiled_step = model.compiled_step()

    def load(self, start: Any) -> None:
        """The state of the first form, which as a rule is this one."""
        from sharpkeras.spaces.state_dict import load_state

        load_state(self.network, start[0])

    def step(self) -> float:
        return float(self.compiled_step(self.data)["train_loss"])

    def gradients(self) -> dict[str, np.ndarray]:
        """The momentum after the first step, by official names: the clipped gradient and the L2 term."""
        from sharpkeras.spaces.state_dict import state_slots

        self.compiled_step.sync()
        weights = [id(variable) for variable in self.network.trainable_variables]
        buffers = dict(zip(weights, map(np.asarray, self.model.weight_optimizer.buffers)))
        found = {}
        for key, slot in state_slots(self.network).items():
            if id(slot.variable) in buffers:
                value = buffers[id(slot.variable)]
                value = value if slot.row is None else value[slot.row]
                found[key] = value if slot.axes is None else np.transpose(value, np.argsort(slot.axes))
        return found

    def begin_timing(self) -> None:
        """Nothing to do."""

    def device_memory_gb(self) -> float | None:
        import keras

        if keras.backend.backend() != "jax":
            return None
        import jax

        peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return None if peak is None else peak / 2**30


class OurSearch(Ours):
    """The step of a SearchModel of any space.

    Args:
        space: a SearchSpace.
        supernet: its supernet.
        data: a batch, which is both training and validation batch.
        imported: as in Ours.
        order: of the gradient.
    """

    def __init__(self, space: Any, supernet: Any, data: tuple, imported: float, order: int = 1) -> None:
        from sharpkeras.optimizers import SGD, Adam
        from sharpkeras.searching.search_model import SearchModel

        model = SearchModel(space, supernet, SGD(LEARNING_RATE), Adam(ARCH_LEARNING_RATE), order)
        super().__init__(model, supernet, (data, data), imported)

    def state(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Weights by official names, and the alphas in one array as the peers have them."""
        from sharpkeras.spaces.state_dict import state_dict

        return state_dict(self.network), self.stacked(self.model.alphas)

    def load(self, start: Any) -> None:
        super().load(start)
        for variable, values in zip(self.model.alphas, self.unstacked(start[1])):
            variable.assign(values)
        # Adam's first step is the sign of a gradient, also of one that only rounding tells from 0: until the gradients
        # of the weights have been compared, the alphas stay where they are.
        self.model.arch_optimizer.learning_rate.assign(0.0)

    def begin_timing(self) -> None:
        self.compiled_step.sync()
        self.model.arch_optimizer.learning_rate.assign(ARCH_LEARNING_RATE)

    def gradients(self) -> dict[str, np.ndarray]:
        """With the first moment of the alphas."""
        return super().gradients() | {"alphas": self.stacked(self.model.arch_optimizer.means)}

    def stacked(self, arrays: Any) -> np.ndarray:
        return np.stack([np.asarray(values) for values in arrays])

    def unstacked(self, array: np.ndarray) -> list[np.ndarray]:
        return list(array)


class OurTraining(Ours):
    """The step of a TrainingModel.

    Args:
        network: a final network.
        data: a batch.
        imported: as in Ours.
    """

    def __init__(self, network: Any, data: tuple, imported: float) -> None:
        from sharpkeras.optimizers import SGD
        from sharpkeras.training.training_model import TrainingModel

        super().__init__(TrainingModel(network, SGD(LEARNING_RATE)), network, data, imported)

    def state(self) -> tuple[dict[str, np.ndarray]]:
        from sharpkeras.spaces.state_dict import state_dict

        return (state_dict(self.network),)

    def begin_timing(self) -> None:
        """Drop path is random, so that it is on only once the first steps have been compared."""
        self.compiled_step.sync()
        self.network.drop_path_rate.assign(DROP_PATH)
