"""A tiny search on JAX by the flags of the command line, that kills its process after a step if it is told to.

    python -m support.two_devices STEPS OUT [FLAG ...]

STEPS: of the run after which the process is killed; 0 lets it end.
"""

import os
import signal
import sys

SIZES = "--limit 48 --epochs 1 --batch-size 8 --init-channels 2 --num-cells 1 --num-nodes 1"
SPACE = "--space skip_connect,sep_conv_3x3 --checkpoint-interval 0 --ignore-memory-check"

if __name__ == "__main__":
    steps, out, *flags = sys.argv[1:]
    os.environ["KERAS_BACKEND"] = "jax"
    from sharpkeras.engine.checkpointing import Checkpointer
    from sharpkeras_cli.main import main

    save = Checkpointer.save

    def save_and_die(self, state):
        saved = save(self, state)
        if state.epoch == 0 and state.step == int(steps):
            os.kill(os.getpid(), signal.SIGKILL)
        return saved

    Checkpointer.save = save_and_die
    main(["search", "digits", *SIZES.split(), *SPACE.split(), "--backend", "jax", "--out", out, *flags])
