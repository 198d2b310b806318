"""What all tests share: quiet frameworks, and random numbers that start from one seed in each test."""

import os
import random
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded():
    random.seed(0)
    np.random.seed(0)
    if "keras" in sys.modules:  # a test without Keras need not wait for it
        sys.modules["keras"].utils.set_random_seed(0)
