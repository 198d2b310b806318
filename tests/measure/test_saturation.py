"""Sums that x86 without VNNI cuts off: the bound that is told from a file, beside what NumPy computes as AVX2 does."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from support.without_vnni import answers, convolution, product  # noqa: E402

from sharpkeras.measure.saturation import largest_sums, verdict, words  # noqa: E402

OPSETS = [helper.make_opsetid("", 17)]
ZERO = numpy_helper.from_array(np.zeros((), "int8"), "zero")
ONE = numpy_helper.from_array(np.ones((), "float32"), "one")


def graph(nodes, tensors, name="g", inputs=("images",), kind=TensorProto.FLOAT):
    values = [helper.make_tensor_value_info(input, kind, None) for input in inputs]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, values, [logits], tensors)


def file_of(weights, operator="Conv", between=(), dequantized=True, **attributes):
    """A model with one layer named "layer", whose weights are these, dequantised and then moved as `between` says."""
    nodes, name = [], "weights"
    if dequantized:
        nodes.append(helper.make_node("DequantizeLinear", ["weights", "one"], ["floats"]))
        name = "floats"
    for index, moving in enumerate(between):
        nodes.append(helper.make_node(moving, [name], [f"moved{index}"]))
        name = f"moved{index}"
    nodes.append(helper.make_node(operator, ["images", name], ["logits"], name="layer", **attributes))
    return helper.make_model(graph(nodes, [numpy_helper.from_array(weights, "weights"), ONE]), opset_imports=OPSETS)


def int8(*rows):
    return np.array(rows, "int8")


KERNEL = np.stack([np.full((3, 1, 1), 64, "int8"), int8(65, -65, 3).reshape(3, 1, 1)])  # (M, C, h, w)

# What the largest sum of two products is, by hand: 255 times the two weights of one output that are most together.
FILES = {
    "7 bits": (file_of(np.full((2, 3, 1, 1), 64, "int8")), 255 * 128),
    "7 bits, negative": (file_of(np.full((2, 3, 1, 1), -64, "int8")), 255 * 128),
    "one more": (file_of(int8(64, 65).reshape(1, 2, 1, 1)), 255 * 129),
    "all of 8 bits": (file_of(np.full((1, 2, 3, 3), -128, "int8")), 255 * 256),
    "large ones of other outputs": (file_of(int8(127, 127).reshape(2, 1, 1, 1)), 255 * 127),
    "of one output": (file_of(int8(127, 127).reshape(1, 2, 1, 1)), 255 * 254),
    "signs that cancel": (file_of(int8(127, -127).reshape(1, 2, 1, 1)), 255 * 127),
    "channel by channel": (file_of(KERNEL), 255 * 128),
    "transposed convolution": (file_of(KERNEL, "ConvTranspose"), 255 * (64 + 65)),
    "product": (file_of(int8((100, 1), (1, 100)), "MatMul"), 255 * 101),
    "product of a vector": (file_of(int8(100, 100), "MatMul"), 255 * 200),
    "dense": (file_of(int8((100, 90), (1, 2)), "Gemm"), 255 * 101),
    "dense, transposed": (file_of(int8((100, 90), (1, 2)), "Gemm", transB=1), 255 * 190),
    "moved": (file_of(int8((100, 1), (1, 100)), "MatMul", between=["Transpose"]), 255 * 200),
    "handed on": (file_of(int8((100, 1), (1, 100)), "MatMul", between=["Identity"]), 255 * 101),
    "integers alone": (file_of(int8((100, 1), (1, 100)), "MatMulInteger", dequantized=False), 255 * 101),
    "no weights": (file_of(np.zeros((0, 3, 1, 1), "int8")), 0),
    "unsigned": (file_of(np.full((1, 2, 1, 1), 255, "uint8")), None),
    "float": (file_of(np.ones((1, 2, 1, 1), "float32"), dequantized=False), None),
}


@pytest.mark.parametrize(("model", "largest"), FILES.values(), ids=FILES)
def test_the_largest_sum_of_a_file(model, largest):
    assert largest_sums(model) == ({} if largest is None else {"layer": largest})
    found = verdict(model)
    assert found["could_saturate"] == ((largest or 0) > 32767) == ("could be cut off" in words(found))
    assert ("every" in found["right_on"]) != ("VNNI" in found["right_on"])


def test_weights_of_int32_data():
    """The other place where a tensor can have its numbers."""
    model = file_of(int8(100, 100).reshape(1, 2, 1, 1))
    model.graph.initializer[0].CopyFrom(helper.make_tensor("weights", TensorProto.INT8, [1, 2, 1, 1], [-100, -100]))
    assert not model.graph.initializer[0].raw_data and largest_sums(model) == {"layer": 255 * 200}


def test_weights_that_are_not_in_the_file_are_taken_to_be_the_largest():
    unknown = file_of(int8(1, 1).reshape(1, 2, 1, 1))
    unknown.graph.initializer[0].dims[0] = 2  # whose numbers are not all there
    quantize = helper.make_node("QuantizeLinear", ["floats", "one", "zero"], ["weights"])
    layers = [
        helper.make_node("DequantizeLinear", ["weights", "one", "zero"], ["again"]),
        helper.make_node("MatMul", ["images", "again"], ["logits"], name="layer"),
    ]
    tensors = [ONE, ZERO, numpy_helper.from_array(np.ones((2, 2), "float32"), "floats")]
    at_load = helper.make_model(graph([quantize, *layers], tensors), opset_imports=OPSETS)
    taking = graph(layers, tensors[:2], inputs=("images", "weights"), kind=TensorProto.INT8)
    handed_in = helper.make_model(taking, opset_imports=OPSETS)
    for model in (unknown, at_load, handed_in):
        assert largest_sums(model) == {"layer": 2 * 128 * 255} and verdict(model)["could_saturate"]
    tensors[1] = numpy_helper.from_array(np.zeros((), "uint8"), "zero")
    assert not largest_sums(helper.make_model(graph([quantize, *layers], tensors), opset_imports=OPSETS))


def test_layers_of_a_branch_and_a_function():
    layer = helper.make_node("MatMulInteger", ["images", "weights"], ["logits"], name="layer")
    branch = graph([layer], [numpy_helper.from_array(int8((100,), (100,)), "weights")], "branch", inputs=())
    node = helper.make_node("If", ["c"], ["logits"], then_branch=branch, else_branch=branch)
    assert largest_sums(helper.make_model(graph([node], []), opset_imports=OPSETS)) == {"layer": 255 * 200}
    outer = graph([node], [numpy_helper.from_array(int8((1,), (1,)), "weights")])
    assert largest_sums(helper.make_model(outer, opset_imports=OPSETS)) == {"layer": 255 * 200}
    constant = helper.make_node("Constant", [], ["weights"], value=numpy_helper.from_array(int8((3,), (4,)), "w"))
    function = helper.make_function("", "f", ["images"], ["logits"], [constant, layer], OPSETS)
    model = helper.make_model(graph([helper.make_node("f", ["images"], ["logits"])], []), opset_imports=OPSETS)
    model.functions.append(function)
    assert largest_sums(model) == {"layer": 255 * 7}


def test_a_graph_that_goes_round_in_circles():
    nodes = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"])]
    nodes.append(helper.make_node("MatMul", ["images", "a"], ["logits"], name="layer"))
    assert largest_sums(helper.make_model(graph(nodes, []), opset_imports=OPSETS)) == {}


# ---- beside what is computed ----


def test_two_products_are_cut_off_as_by_vpmaddubsw():
    """Intel's definition of it: SaturateToSignedWord(a1 * b1 + a0 * b0)."""
    activations = np.array([[255, 255, 255, 255]], "uint8")
    weights = int8((127, -128, 64), (127, -128, 64), (1, -1, 64), (0, 0, 64))
    assert product(activations, weights, saturates=False).tolist() == [[65025, -65535, 65280]]
    assert product(activations, weights, saturates=True).tolist() == [[32767 + 255, -32768 - 255, 65280]]
    odd = product(activations[:, :3], weights[:3], saturates=True)
    assert odd.tolist() == [[32767 + 255, -32768 - 255, 3 * 255 * 64]]


@pytest.mark.parametrize("seed", range(40))
def test_what_a_file_is_said_to_keep_is_kept(seed):
    """Whatever the order of channels, of an engine or of the weights: the largest images in it are tried."""
    generator = np.random.default_rng(seed)
    largest = int(generator.integers(50, 128))
    kernel = generator.integers(-largest, largest + 1, (3, 4, 2, 2)).astype("int8")
    found = verdict(file_of(kernel))
    wrong = []
    for _ in range(20):
        order = generator.permutation(4)
        images = generator.choice(np.array([0, 255], "uint8"), (50, 4, 2, 2))
        images[:2] = [255 * (kernel[0] > 0), 255 * (kernel[0] < 0)]
        sums = [convolution(images[:, order], 128, kernel[:, order], saturates) for saturates in (False, True)]
        wrong.append((sums[0] != sums[1]).any())
    assert found["could_saturate"] or not any(wrong)
    assert largest > 64 or not found["could_saturate"]


@pytest.fixture(scope="module")
def convolutional():
    """A convolution, a depthwise one and a classifier in float32, with weights of one sign in the first."""
    generator = np.random.default_rng(1)
    kernels = {"a": generator.uniform(0.8, 1, (8, 8, 3, 3)), "b": generator.normal(0, 1, (8, 1, 3, 3))}
    tensors = [numpy_helper.from_array(kernel.astype("float32"), name) for name, kernel in kernels.items()]
    tensors.append(numpy_helper.from_array(generator.normal(0, 1, 8).astype("float32"), "bias"))
    tensors.append(numpy_helper.from_array(generator.normal(0, 1, (8, 5)).astype("float32"), "c"))
    nodes = [
        helper.make_node("Conv", ["images", "a", "bias"], ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "b"], ["y"], kernel_shape=[3, 3], group=8, dilations=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["y"], ["z"]),
        helper.make_node("Flatten", ["z"], ["flat"]),
        helper.make_node("MatMul", ["flat", "c"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 8, 9, 9])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
    whole = helper.make_graph(nodes, "g", [images], [logits], tensors)
    model = helper.make_model(whole, opset_imports=OPSETS, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model, np.random.default_rng(2).uniform(-0.1, 1, (128, 8, 9, 9)).astype("float32")


def test_weights_of_8_bits_go_wrong_without_vnni_and_those_of_7_do_not(convolutional):
    from sharpkeras.onnx_export import int8 as quantization
    from sharpkeras.onnx_export import verification

    model, images = convolutional
    exact = verification.logits(verification.session(model.SerializeToString()), images)
    size, far = np.abs(exact).max(), {}
    for bits in quantization.WEIGHT_BITS:
        quantized = quantization.quantize(model, images, bits)
        assert verdict(quantized)["could_saturate"] == (bits == 8)
        with_vnni, without = (answers(quantized, images, saturates) for saturates in (False, True))
        far[bits] = [np.abs(logits - exact).max() / size for logits in (with_vnni, without)]
        if bits == 7:
            np.testing.assert_array_equal(without, with_vnni)
            # This processor, whichever it is, agrees: but for roundings, of which a step of the last scale is one.
            here = verification.logits(verification.session(quantized.SerializeToString()), images)
            np.testing.assert_allclose(here, without, atol=0.02 * size)
    assert max(far[7]) < 0.02 and far[8][0] < 0.02 and far[8][1] > 0.1
