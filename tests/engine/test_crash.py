"""Five kills at random instants of a search and of a training; `make crash-test` has twenty of each, and new ones."""

import os

import pytest
from support.crash import COMMANDS, crash

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    pytest.skip("the processes are TensorFlow's", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_that_is_killed_at_any_instant_comes_to_the_same_end(name):
    crash(name, kills=5, seed=5)
