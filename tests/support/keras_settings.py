"""What a user's keras.json may hold, set within this process."""

import contextlib

import keras

HOSTILE = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.5}


@contextlib.contextmanager
def hostile_keras():
    """While it lasts, Keras has other defaults; what is made computes in float32, as a recipe's policy says."""
    with contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        for name, value in HOSTILE.items():
            change = getattr(keras.config, f"set_{name}")
            stack.callback(change, getattr(keras.config, name)())
            change(value)
        keras.config.set_dtype_policy("float32")
        yield
