"""Training step on JAX: a compiled pure function (state, data) → (logs, state)."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras
import numpy as np

from sharpkeras.backend import jax_devices

JIT_COMPILE = True


def make_deterministic() -> None:
    """Make every operation deterministic (on CPU it is anyway); to be called before any other operation."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"


def conditions() -> dict[str, Any]:
    """Settings of the process and the machine on which the last bits of a result depend, by name."""
    return {
        "gpus": [device.device_kind for device in jax.local_devices() if device.platform == "gpu"],
        "matmul_precision": jax.config.jax_default_matmul_precision,
        "64_bits": jax.config.jax_enable_x64,
        "random_numbers": f"{jax.config.jax_default_prng_impl}, partitionable {jax.config.jax_threefry_partitionable}",
    }


def devices() -> list[str] | None:
    """The devices that divide each batch, such as "gpu:0"; None where batches are not divided."""
    return jax_devices.names()


def device_bytes_left() -> int | None:
    """Free memory of the first GPU in bytes; None without a GPU."""
    sizes = jax.local_devices()[0].memory_stats() or {}
    return sizes["bytes_limit"] - sizes["bytes_in_use"] if "bytes_limit" in sizes else None


def gradient(function: Callable, argument: list) -> tuple:
    """(value, aux, gradients) at a list of arrays, of a function → (value, aux); aux is not differentiated."""
    (value, aux), gradients = jax.value_and_grad(function, has_aux=True)(argument)
    return value, aux, gradients


def train_step(model: Any, state: tuple, data: Any) -> tuple:
    """One update on a batch, as `keras.Model.train_step` does it on JAX: (state, data) → (metric → value, state)."""
    groups = model.step_variables()
    mapping = [pair for variables, values in zip(groups, state) for pair in zip(variables, values)]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        logs = model.guarded_update(gradient, data)
    return logs, tuple([scope.get_current_value(variable) for variable in variables] for variables in groups)


class CompiledStep:
    """A callable (data) → logs that updates a state on the device; `sync` writes it into the model's variables."""

    def __init__(self, model: Any) -> None:
        self._groups, self._state = model.step_variables(), None
        self._model, self._is_ready = model, False
        options = {"donate_argnums": 0, "out_shardings": jax_devices.replicated()}
        self._step = jax.jit(lambda state, data: train_step(model, state, data), **options)
        self._scan = jax.jit(lambda state, data: jax.lax.scan(self._scanned, state, data), **options)
        self._compiled = {}  # shapes and dtypes of data → the step, where it was compiled before it was called

    def __call__(self, data: Any) -> dict[str, Any]:
        if not self._is_ready:
            self._model.tell("running the first step" if self._compiled else "tracing and compiling the step")
            self._is_ready = True
        data = jax_devices.data(data)
        self._take_state()
        step = self._compiled.get(_signature(data), self._step) if self._compiled else self._step
        logs, self._state = step(self._state, data)
        return logs

    def several(self, batches: Sequence[Any]) -> dict[str, Any]:
        """One step for each of N batches of one shape, in one compiled call: (data, …) → logs, each of them (N,).

        Each N is compiled once. XLA compiles the body of the loop apart from the single step, so that the last bits can
        be others.
        """
        if not self._is_ready:
            self._model.tell(f"tracing and compiling {len(batches)} steps in one call")
            self._is_ready = True
        self._take_state()
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        self._state, logs = self._scan(self._state, jax_devices.data(stacked, axis=1))
        return logs

    def _scanned(self, state: tuple, data: Any) -> tuple:
        logs, state = train_step(self._model, state, data)
        return state, logs

    def _take_state(self) -> None:
        if self._state is None:
            self._state = tuple([jax_devices.state(v.value) for v in variables] for variables in self._groups)

    def sync(self) -> None:
        """Write the state into the model's variables."""
        if self._state is not None:
            for variables, values in zip(self._groups, self._state):
                for variable, value in zip(variables, values):
                    variable.assign(jax_devices.local(value))
            self._state = None

    def peak_bytes(self, data: Any) -> int:
        """Estimate of a step's peak memory in bytes, with its state and the data; nothing is run.

        The step is compiled, once for this and for the steps. The numbers are XLA's own plan of its buffers, which does
        not have what its convolutions on CPU take for themselves: two trainings there took 1.5 and 1.7 times as much.
        """
        if _signature(data) not in self._compiled:
            state = tuple([_placeholder(variable) for variable in variables] for variables in self._groups)
            self._model.tell("tracing the step")
            lowered = self._step.lower(state, jax_devices.data(data))
            self._model.tell("compiling the step as a whole")
            self._compiled[_signature(data)] = lowered.compile()
        sizes = self._compiled[_signature(data)].memory_analysis()
        results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes  # what does not take the place of the state
        return sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + results


def inference(model: Any) -> tuple[Callable, Callable]:
    """A compiled function from images to a model's output, both arrays of NumPy, and one that tells where it computes:
    from images to "CPU" or "GPU".
    """
    groups = (model.trainable_variables, model.non_trainable_variables)
    values = tuple([variable.value for variable in variables] for variables in groups)
    compiled = jax.jit(lambda values, images: model.stateless_call(*values, images, training=False)[0])
    return (
        lambda images: np.asarray(compiled(values, images)),
        lambda images: next(iter(compiled(values, images).devices())).platform.upper(),
    )


def _placeholder(variable):
    return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=jax_devices.replicated())


def _signature(data):
    leaves, structure = jax.tree.flatten(data)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
