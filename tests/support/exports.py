"""Exports small networks of random genotypes, each through the gate; prints the worst differences.

`PYTHONPATH=tests python -m support.exports --count 200 --seed 0`; `make export-test` calls it.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from sharpkeras.errors import SharpKerasError
    from sharpkeras.onnx_export.export_onnx import export_onnx
    from support.random_models import random_network

    differences, rejected = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            network = random_network(seed, image_size=(8, 9)[seed // 2 % 2])  # an odd side pads where an even one cuts
            try:
                report = export_onnx(network, Path(folder) / "a.onnx", overwrite=True, target="avx512")
                differences.append((report["relative_difference"], seed))
            except SharpKerasError as error:
                rejected.append(seed)
                print(f"seed {seed}: {error}", file=sys.stderr)
    differences.sort(reverse=True)
    worst = ", ".join(f"{difference:.1e} (seed {seed})" for difference, seed in differences[:3])
    print(f"{len(differences)} of {arguments.count} pass the gate; largest differences relative to a logit: {worst}")
    return 1 if rejected else 0


if __name__ == "__main__":
    sys.exit(main())
