"""The operations of JAX equal what they replace, values and gradients; half precision is summed in float32."""

import jax
import numpy as np
import pytest
from jax import lax
from jax import numpy as jnp

from sharpkeras.backend import jax_ops

SIZES = ((8, 8), (7, 6), (11, 9))  # fewer rows than ROWS, a multiple of them, more


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def assert_equal(operation, plain, *arguments):
    """Outputs, and gradients by all arguments of a random combination of them."""
    shapes = jax.eval_shape(plain, *arguments)
    factors = jax.tree.map(lambda output: np.random.normal(size=output.shape), shapes)

    @jax.jit
    def differences(arguments, factors):
        both = []
        for function in (operation, plain):
            outputs, backward = jax.vjp(function, *arguments)
            both.append(jax.tree.leaves((outputs, backward(factors))))
        return [jnp.abs(ours - theirs).max() / (1 + jnp.abs(theirs).max()) for ours, theirs in zip(*both)]

    assert jax.tree.map(lambda a: a.shape, jax.eval_shape(operation, *arguments)) == jax.tree.map(
        lambda a: a.shape, shapes
    )
    assert max(differences(arguments, factors)) < 1e-12


def images(size, channels=3):
    return np.random.normal(size=(2, *size, channels))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kernel_size", ((3, 3), (5, 5), (1, 7)), ids=str)
@pytest.mark.parametrize("strides, dilation", ((1, 1), (2, 1), (1, 2), (2, 2)))
def test_a_depthwise_convolution_is_a_grouped_one(size, kernel_size, strides, dilation):
    padding = [(dilation * (k - 1) // 2,) * 2 for k in kernel_size]

    def plain(inputs, kernel):
        return lax.conv_general_dilated(
            inputs,
            jnp.swapaxes(kernel, 2, 3),
            (strides,) * 2,
            padding,
            rhs_dilation=(dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    def ours(inputs, kernel):
        return jax_ops.depthwise_conv(inputs, kernel, (strides,) * 2, (dilation,) * 2)

    assert_equal(ours, plain, images(size), np.random.normal(size=(*kernel_size, 3, 1)))


@pytest.mark.parametrize("strides", (1, 2))
def test_both_forms_of_a_kernel_gradient_are_equal(strides):
    # A machine runs one of them: a CPU the loop, a GPU the sums.
    settings = dict(size=(5, 3), strides=(strides,) * 2, dilation=(2, 1))
    inputs = images((11, 9))
    gradient = images((-(-11 // strides), -(-9 // strides)))
    loop = jax.jit(lambda *given: jax_ops._kernel_gradient_by_loop(*given, **settings))(inputs, gradient)
    sums = jax.jit(lambda *given: jax_ops._kernel_gradient_by_sums(*given, **settings))(inputs, gradient)
    np.testing.assert_allclose(loop, sums, rtol=1e-12, atol=1e-12)


def test_half_precision_is_summed_in_float32():
    inputs = jnp.asarray(images((16, 16)), "bfloat16")
    kernel = jnp.asarray(np.random.normal(size=(5, 5, 3, 1)), "bfloat16")

    @jax.jit
    def pass_over(inputs, kernel):
        outputs, backward = jax.vjp(jax_ops.depthwise_conv, inputs, kernel)
        return outputs, *backward(inputs)

    wide = pass_over(inputs.astype("float64"), kernel.astype("float64"))
    for ours, expected in zip(pass_over(inputs, kernel), wide):
        assert ours.dtype == "bfloat16"
        # The one rounding of the result; sums in bfloat16 would be off by many.
        assert np.all(np.abs(np.asarray(ours, "float64") - expected) <= 2.0**-8 * np.abs(expected) + 1e-4)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("strides", (1, 2))
@pytest.mark.parametrize("ties", (False, True))
def test_a_maximum_is_that_of_the_window_and_the_first_of_equals_takes_the_gradient(size, strides, ties):
    values = images(size)
    values = np.round(values) if ties else values

    def plain(inputs):
        return lax.reduce_window(inputs, -jnp.inf, lax.max, (1, 3, 3, 1), (1, strides, strides, 1), PADDING)

    assert_equal(lambda inputs: jax_ops.max_pool(inputs, (3, 3), (strides,) * 2), plain, values)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("strides", (1, 2))
@pytest.mark.parametrize("counted", (False, True))
def test_an_average_is_that_of_the_window(size, strides, counted):
    def window_sum(inputs):
        return lax.reduce_window(inputs, 0.0, lax.add, (1, 3, 3, 1), (1, strides, strides, 1), PADDING)

    def plain(inputs):
        return window_sum(inputs) / (9 if counted else window_sum(jnp.ones_like(inputs)))

    assert_equal(lambda inputs: jax_ops.average_pool(inputs, (3, 3), (strides,) * 2, counted), plain, images(size))


PADDING = ((0, 0), (1, 1), (1, 1), (0, 0))


def test_a_pointwise_convolution_is_a_convolution():
    def plain(inputs, kernel):
        return lax.conv_general_dilated(inputs, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert_equal(jax_ops.pointwise_conv, plain, images((7, 6)), np.random.normal(size=(1, 1, 3, 5)))


def test_batch_normalization_has_the_gradient_of_its_formula_through_all_it_returns():
    def plain(inputs, scale, offset):
        mean, variance, count = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2)), inputs.size // 3
        outputs = (inputs - mean) / jnp.sqrt(variance + 1e-5) * scale + offset
        return outputs, mean, variance * count / (count - 1)

    scale, offset = np.random.normal(size=(2, 3))
    assert_equal(lambda *given: jax_ops.batch_normalization(*given, 1e-5), plain, images((7, 6)), scale, offset)


def test_forward_mode_is_refused():
    inputs, kernel = images((8, 8)), np.ones((3, 3, 3, 1))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(jax_ops.depthwise_conv, (inputs, kernel), (inputs, kernel))


EDGES = (((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), ((0, 0), (1, 0), (0, 1), (1, 1)))


@pytest.mark.parametrize("edges, within", [*zip(EDGES, (True, False))], ids=("a cell", "between two sizes"))
def test_a_loop_over_edges_equals_the_edges_one_by_one(edges, within):
    states, kernels = np.random.normal(size=(4, 2, 3, 3, 5)), np.random.normal(size=(len(edges), 5, 5))
    nodes = states if within else np.random.normal(size=(2, 2, 2, 2, 5))

    def body(state, kernel, known):
        outputs = jnp.tanh(state @ kernel)
        mean = jnp.mean(outputs) if known is None else known  # which has no gradient, computed or known
        return (outputs if within else outputs[:, ::2, ::2]) * lax.stop_gradient(mean), mean

    def by_loop(states, nodes, kernels):
        return jax_ops.loop_over_edges(body, edges, None if within else states, nodes, kernels)[0]

    def one_by_one(states, nodes, kernels):
        sums = list(nodes)
        for (source, node), kernel in zip(edges, kernels):
            sums[node] += body(sums[source] if within else states[source], kernel, None)[0]
        return jnp.stack(sums)

    assert_equal(by_loop, one_by_one, states, nodes, kernels)
