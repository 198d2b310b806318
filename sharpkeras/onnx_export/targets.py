"""Which rewrites suit the processor that a file is for: by a row for each, or by what is measured on this machine.

ONNX Runtime's blocks have 16 channels with AVX-512 and 8 with AVX2. Filling channels to whole blocks of 16 saved up
to a tenth of the time on processors with AVX-512 and cost time on one with AVX2 alone (docs/results.md).
"""

import tempfile
from pathlib import Path
from typing import Any

from sharpkeras.measure.latency.benchmark import OnnxFile, benchmark

AUTO = "auto"
LEFT_OUT = {  # target → which of the default rewrites do not suit it
    "avx2": ("align-channels",),
    "avx512": (),
    "arm": ("align-channels",),  # no figures
    "gpu": ("align-channels",),  # whose layouts have no such blocks; no figures
}
SIMPLE, FILLED = LEFT_OUT["avx2"], LEFT_OUT["avx512"]  # between which `compare` decides
RUNS, WARMUP_S = 50, 0.2


def compare(simple: bytes, filled: bytes) -> dict[str, Any]:
    """Latency of the file with filled channels in that of the simple one, on this machine, in turns.

    Batch size 1, on as many threads as there are cores.

    Returns:
        `ratio` with its 95 % `interval` and `verdict`; `device`, `threads`, `batch_size`, `runs`; whether it is
        `unstable`.

    Raises:
        ResourceError: if ONNX Runtime needs more memory or time than it may take.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("simple.onnx", "filled.onnx")]
        for file, content in zip(files, (simple, filled)):
            file.write_bytes(content)
        report = benchmark([OnnxFile(file) for file in files], runs=RUNS, warmup_s=WARMUP_S)
    figures = {name: report["comparisons"][0][name] for name in ("ratio", "interval", "verdict")}
    setting = {name: report["models"][0][name] for name in ("device", "threads", "batch_size", "runs")}
    return figures | setting | {"unstable": report["unstable"]}
