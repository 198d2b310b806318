"""sharpkeras: differentiable architecture search (DARTS, sharpDARTS) for Keras 3.

primitives → space → supernet → bilevel search → architecture → network → training → measure → export
"""

from sharpkeras import saved

__version__ = "0.1.0"

saved.announce()
