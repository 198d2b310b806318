"""Operations of JAX in a form that XLA compiles well; plain ones take up to a hundred times as long on a CPU.

Each has a gradient of its own (`jax.custom_vjp`), so reverse mode alone: `jax.jvp`, and with it forward over reverse,
fails. What is taken in bfloat16 or float16 is summed in float32.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

Pair = tuple[int, int]
Arrays = tuple[jax.Array, ...]

ROWS = 8  # of images, that a step of the loop over a batch adds up


# --- depthwise convolution ---


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(inputs: jax.Array, kernel: jax.Array, strides: Pair = (1, 1), dilation: Pair = (1, 1)) -> jax.Array:
    """Depthwise convolution with dilation·(k - 1)/2 zeros on each side, as the sum of k_h·k_w shifted images.

    Args:
        inputs: (B, H, W, C).
        kernel: (k_h, k_w, C, 1), odd sides.

    Returns:
        (B, ceil(H / s_h), ceil(W / s_w), C).
    """
    return _shifted_sum(_wide(inputs), kernel, strides, dilation).astype(inputs.dtype)


def _depthwise_conv_forward(
    inputs: jax.Array, kernel: jax.Array, strides: Pair, dilation: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_conv(inputs, kernel, strides, dilation), (inputs, kernel)


def _depthwise_conv_backward(
    strides: Pair, dilation: Pair, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = saved
    # By the inputs it is a convolution of the gradient, zeros between its pixels, with the kernel turned round.
    spread = _spread(_wide(gradient), inputs.shape, strides)
    by_inputs = _shifted_sum(spread, jnp.flip(kernel, (0, 1)), (1, 1), dilation)
    by_kernel = _kernel_gradient(_wide(inputs), _wide(gradient), _size(kernel), strides, dilation)
    return by_inputs.astype(inputs.dtype), by_kernel.astype(kernel.dtype)


depthwise_conv.defvjp(_depthwise_conv_forward, _depthwise_conv_backward)


def _shifted_sum(inputs: jax.Array, kernel: jax.Array, strides: Pair, dilation: Pair) -> jax.Array:
    windows, taps = _windows(inputs, _size(kernel), strides, dilation), _wide(kernel)[..., 0]
    return functools.reduce(jnp.add, (window * taps[i, j] for (i, j), window in windows.items()))


def _kernel_gradient(inputs: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, dilation: Pair) -> jax.Array:
    """(k_h, k_w, C, 1)."""
    by_loop = functools.partial(_kernel_gradient_by_loop, size=size, strides=strides, dilation=dilation)
    by_sums = functools.partial(_kernel_gradient_by_sums, size=size, strides=strides, dilation=dilation)
    return lax.platform_dependent(inputs, gradient, cpu=by_loop, default=by_sums)


def _kernel_gradient_by_sums(
    inputs: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, dilation: Pair
) -> jax.Array:
    """A sum over batch and image for each tap, as suits a GPU."""
    windows = _windows(inputs, size, strides, dilation)
    sums = [jnp.sum(window * gradient, axis=(0, 1, 2)) for window in windows.values()]
    return jnp.stack(sums).reshape(*size, -1, 1)


def _kernel_gradient_by_loop(
    inputs: jax.Array, gradient: jax.Array, size: Pair, strides: Pair, dilation: Pair
) -> jax.Array:
    """A loop over `ROWS` rows of the batch at a time, which adds to k_w sums of shape (k_h, W, C).

    A sum over batch and image at once has its inner loop over values that lie C apart: 3 to 30 times as slow on a CPU.
    """
    batch, height, width, channels = gradient.shape
    padded = _padded(inputs, size, dilation)
    tall = math.ceil(padded.shape[1] / strides[0])  # rows of an image; those of zeros below the gradient add nothing
    steps = math.ceil(batch * tall / ROWS)
    gradient = _rows(gradient, tall)
    gradient = jnp.pad(gradient, ((0, steps * ROWS - batch * tall), (0, 0), (0, 0)))
    reach = (size[0] - 1) * dilation[0] + 1, (width - 1) * strides[1] + 1
    padded = _rows(padded, tall * strides[0])
    padded = jnp.pad(padded, ((0, steps * ROWS * strides[0] + reach[0] - len(padded)), (0, 0), (0, 0)))

    def step(block: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        added = []
        for j, total in enumerate(sums):
            for row in range(ROWS):
                corner = ((block * ROWS + row) * strides[0], j * dilation[1], 0)
                pixels = lax.dynamic_slice(padded, corner, (*reach, channels))[:: dilation[0], :: strides[1]]
                total += pixels * lax.dynamic_slice(gradient, (block * ROWS + row, 0, 0), (1, width, channels))
            added.append(total)
        return added

    zeros = [jnp.zeros((size[0], width, channels), gradient.dtype)] * size[1]
    sums = lax.fori_loop(0, steps, step, zeros)
    return jnp.stack([jnp.sum(total, axis=1) for total in sums], axis=1)[..., None]


def _rows(images: jax.Array, height: int) -> jax.Array:
    """All rows of images (B, H, W, C), each with zeros below it up to a height: (B·height, W, C)."""
    images = jnp.pad(images, ((0, 0), (0, height - images.shape[1]), (0, 0), (0, 0)))
    return images.reshape(-1, *images.shape[2:])


# --- 1×1 convolution ---


def pointwise_conv(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """1×1 convolution as a product of matrices, which has no transposed copies in its gradient: kernel (1, 1, C, F)."""
    return jnp.matmul(inputs, kernel[0, 0])


# --- pools ---


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(inputs: jax.Array, size: Pair, strides: Pair) -> jax.Array:
    """Max-pooling with (k - 1)/2 pixels of -inf on each side, odd k: (B, H, W, C) → (B, ceil(H / s_h), …, C).

    The first of equal pixels takes the gradient, as in TensorFlow and PyTorch.
    """
    return functools.reduce(jnp.maximum, _windows(inputs, size, strides, value=-math.inf).values())


def _max_pool_forward(inputs: jax.Array, size: Pair, strides: Pair) -> tuple[jax.Array, jax.Array]:
    return max_pool(inputs, size, strides), inputs


def _max_pool_backward(size: Pair, strides: Pair, inputs: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    windows = _windows(inputs, size, strides, value=-math.inf)
    chosen, largest = jnp.zeros(gradient.shape, jnp.int16), windows[0, 0]
    for index, window in enumerate(windows.values()):
        chosen = jnp.where(window > largest, jnp.int16(index), chosen)
        largest = jnp.maximum(largest, window)
    # A pixel at tap (i, j) of a window has the middle of that window at tap (k_h - 1 - i, k_w - 1 - j) of its own.
    middles = _windows(_spread(_wide(gradient), inputs.shape, strides), size)
    choices = _windows(_spread(chosen, inputs.shape, strides, -1), size, value=-1)
    last = size[0] * size[1] - 1
    parts = (jnp.where(choices[tap] == last - n, middle, 0) for n, (tap, middle) in enumerate(middles.items()))
    return (functools.reduce(jnp.add, parts).astype(inputs.dtype),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(inputs: jax.Array, size: Pair, strides: Pair, counted_padding: bool) -> jax.Array:
    """Average-pooling with (k - 1)/2 zeros on each side, which count or do not."""
    if counted_padding:
        return _sum_pool(inputs, size, strides) / math.prod(size)
    inside = map(_pixels_inside, inputs.shape[1:3], size, strides)
    return _sum_pool(inputs, size, strides) / np.multiply.outer(*inside)[..., None].astype(inputs.dtype)


def _pixels_inside(side: int, size: int, stride: int) -> np.ndarray:
    """How many pixels of each window lie inside the image, along one side."""
    first = np.arange(0, side, stride) - (size - 1) // 2
    return np.minimum(first + size, side) - np.maximum(first, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _sum_pool(inputs: jax.Array, size: Pair, strides: Pair) -> jax.Array:
    return functools.reduce(jnp.add, _windows(_wide(inputs), size, strides).values()).astype(inputs.dtype)


def _sum_pool_forward(inputs: jax.Array, size: Pair, strides: Pair) -> tuple[jax.Array, jax.Array]:
    return _sum_pool(inputs, size, strides), inputs


def _sum_pool_backward(size: Pair, strides: Pair, inputs: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (_sum_pool(_spread(gradient, inputs.shape, strides), size, (1, 1)),)


_sum_pool.defvjp(_sum_pool_forward, _sum_pool_backward)


# --- batch normalization ---


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_normalization(
    inputs: jax.Array, scale: jax.Array, offset: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Outputs (B, H, W, C), mean (C,) and unbiased variance (C,); scale and offset (C,) are float32 at least."""
    return _normalize(inputs, scale, offset, epsilon)[0]


def _normalize(
    inputs: jax.Array, scale: jax.Array, offset: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Arrays]:
    values, count = _wide(inputs), math.prod(inputs.shape[:3])
    mean = jnp.mean(values, axis=(0, 1, 2))
    variance = jnp.mean(jnp.square(values - mean), axis=(0, 1, 2))
    inverse = lax.rsqrt(variance + epsilon)
    outputs = (values - mean) * (inverse * scale) + offset
    results = outputs.astype(inputs.dtype), mean, variance * (count / max(count - 1, 1))
    return results, (inputs, scale, mean, inverse)


def _normalize_backward(epsilon: float, saved: Arrays, gradients: Arrays) -> Arrays:
    inputs, scale, mean, inverse = saved
    gradient, by_mean, by_variance = gradients
    gradient, values, count = _wide(gradient), _wide(inputs), math.prod(inputs.shape[:3])
    by_offset = jnp.sum(gradient, axis=(0, 1, 2))
    by_scale = jnp.sum(gradient * (values - mean), axis=(0, 1, 2)) * inverse
    by_centred = by_variance * (2 / max(count - 1, 1)) - inverse**2 * scale * by_scale / count
    by_inputs = gradient * (inverse * scale) + (values - mean) * by_centred
    by_inputs += (by_mean - inverse * scale * by_offset) / count
    return by_inputs.astype(inputs.dtype), by_scale, by_offset


batch_normalization.defvjp(_normalize, _normalize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalize_again(
    inputs: jax.Array, scale: jax.Array, offset: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float
) -> jax.Array:
    """The outputs of `batch_normalization` a second time, by the statistics that it gave; so are their gradients."""
    return _normalize_again(inputs, scale, offset, mean, variance, epsilon)[0]


def _normalize_again(
    inputs: jax.Array, scale: jax.Array, offset: jax.Array, mean: jax.Array, variance: jax.Array, epsilon: float
) -> tuple[jax.Array, Arrays]:
    count = math.prod(inputs.shape[:3])
    inverse = lax.rsqrt(variance * (max(count - 1, 1) / count) + epsilon)
    outputs = (_wide(inputs) - mean) * (inverse * scale) + offset
    return outputs.astype(inputs.dtype), (inputs, scale, mean, inverse)


def _normalize_again_backward(epsilon: float, saved: Arrays, gradient: jax.Array) -> Arrays:
    nothing = jnp.zeros_like(saved[2])
    return *_normalize_backward(epsilon, saved, (gradient, nothing, nothing)), nothing, nothing


normalize_again.defvjp(_normalize_again, _normalize_again_backward)


# --- a loop over edges ---


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def loop_over_edges(
    body: Callable, edges: tuple[Pair, ...], sources: jax.Array | None, nodes: jax.Array, rows: Any
) -> tuple[jax.Array, Any]:
    """Nodes, to each added what its edges bring, one edge after the other.

    For the gradient each edge is computed again from its source. What `body` returns beside its output has no gradient;
    it gets it back when it computes the edge again.

    Args:
        body: (source (B, H, W, C), an edge's rows, None or what it returned beside its output) → (output
            (B, H', W', C'), anything else).
        edges: (source, node) for each of E edges; the edges into a node stand before those that leave it.
        sources: (S, B, H, W, C); None takes the nodes themselves.
        nodes: (N, B, H', W', C').
        rows: arrays (E, …) in any structure.

    Returns:
        The nodes, and what else `body` returned, (E, …) each.
    """
    return _loop_forward(body, edges, sources, nodes, rows)[0]


def _loop_forward(
    body: Callable, edges: tuple[Pair, ...], sources: jax.Array | None, nodes: jax.Array, rows: Any
) -> tuple[tuple[jax.Array, Any], tuple]:
    def step(nodes: jax.Array, edge: tuple) -> tuple[jax.Array, Any]:
        (source, node), row = edge
        output, rest = _apart(body, node, (nodes if sources is None else sources)[source], row, None)
        return nodes.at[node].add(output), rest

    nodes, rest = lax.scan(step, nodes, (np.asarray(edges), rows))
    return (nodes, rest), (sources, nodes, rows, rest)


def _loop_backward(body: Callable, edges: tuple[Pair, ...], saved: tuple, gradients: tuple) -> tuple:
    sources, nodes, rows, rest = saved
    states = nodes if sources is None else sources

    def step(by_states: tuple, edge: tuple) -> tuple[tuple, Any]:
        by_sources, by_nodes = by_states
        (source, node), row, known = edge
        by_source, by_row = _apart(pull_back, node, states[source], row, known, by_nodes[node])
        if sources is None:
            return (None, by_nodes.at[source].add(by_source)), by_row
        return (by_sources.at[source].add(by_source), by_nodes), by_row

    def pull_back(state: jax.Array, row: Any, known: Any, gradient: jax.Array) -> tuple:
        return jax.vjp(lambda state, row: body(state, row, known)[0], state, row)[1](gradient)

    start = None if sources is None else jnp.zeros_like(sources), gradients[0]
    (by_sources, by_nodes), by_rows = lax.scan(step, start, (np.asarray(edges), rows, rest), reverse=True)
    return by_sources, by_nodes, by_rows


def _apart(function: Callable, index: jax.Array, *arguments: Any) -> Any:
    """function(*arguments), kept out of the update that it goes into, which XLA on CPU would compute on one core.

    What stands in a branch is computed as a whole, and the optimiser does not know that an index is never negative.
    """
    shapes = jax.eval_shape(function, *arguments)
    zeros = lambda *_: jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)  # noqa: E731
    return lax.cond(index >= 0, function, zeros, *arguments)


loop_over_edges.defvjp(_loop_forward, _loop_backward)


# --- parts ---


def _wide(array: jax.Array) -> jax.Array:
    """`array` in the precision in which it is summed."""
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)


def _size(kernel: jax.Array) -> Pair:
    return kernel.shape[0], kernel.shape[1]


def _padded(inputs: jax.Array, size: Pair, dilation: Pair, value: float = 0.0) -> jax.Array:
    height, width = (d * (k - 1) // 2 for k, d in zip(size, dilation))
    return jnp.pad(inputs, ((0, 0), (height, height), (width, width), (0, 0)), constant_values=value)


def _windows(
    inputs: jax.Array, size: Pair, strides: Pair = (1, 1), dilation: Pair = (1, 1), value: float = 0.0
) -> dict[Pair, jax.Array]:
    """Tap (i, j) → the pixels (B, H', W', C) that stand there as the kernel moves over the image, `value` around it."""
    padded, (batch, height, width, channels) = _padded(inputs, size, dilation, value), inputs.shape
    height, width = (math.ceil(side / stride) for side, stride in zip((height, width), strides))

    def window(top: int, left: int) -> jax.Array:
        bottom, right = top + (height - 1) * strides[0] + 1, left + (width - 1) * strides[1] + 1
        return lax.slice(padded, (0, top, left, 0), (batch, bottom, right, channels), (1, *strides, 1))

    taps = itertools.product(*map(range, size))
    return {(i, j): window(i * dilation[0], j * dilation[1]) for i, j in taps}


def _spread(gradient: jax.Array, shape: tuple[int, ...], strides: Pair, value: float = 0) -> jax.Array:
    """What stands at the pixels of a strided image at their places in one of `shape`, `value` at all others."""
    if max(strides) == 1:
        return gradient
    high = [side - 1 - (n - 1) * s for side, n, s in zip(shape[1:3], gradient.shape[1:3], strides)]
    edges = [(0, more, stride - 1) for more, stride in zip(high, strides)]
    return lax.pad(gradient, jnp.asarray(value, gradient.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
