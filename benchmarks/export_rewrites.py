"""What each rewrite of an exported graph is worth: files with one rewrite more each, timed in turns.

    python benchmarks/export_rewrites.py [--genotype SHARPSEPCONV_DARTS] [--threads 2] [--batch-size 1 8] [--runs 150]

The first file is as the converter makes it; each further one has a rewrite more, in the order in which they are
applied. Behind them stand those that are not applied, on top of all the others. Every median is compared with that of
the first file. Prints one JSON object, with the share of the time that ONNX Runtime spends in convolutions of the last
file but those: less than that no rewrite of anything else can take.
"""

import argparse
import json
import tempfile
from pathlib import Path

from sharpkeras_cli.options import choose_backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--genotype", default="SHARPSEPCONV_DARTS")
parser.add_argument("--init-channels", type=int, default=36)
parser.add_argument("--num-cells", type=int, default=20)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8])
parser.add_argument("--runs", type=int, default=150)


def main():
    arguments = parser.parse_args()
    choose_backend("tensorflow")
    import onnx

    from sharpkeras.measure.latency.benchmark import OnnxFile, benchmark
    from sharpkeras.onnx_export import conversion, rewrites
    from sharpkeras.paper import published
    from sharpkeras.recipes import TrainRecipe
    from sharpkeras.spaces.network_spec import NetworkSpec

    sizes = {"init_channels": arguments.init_channels, "num_cells": arguments.num_cells}
    recipe = TrainRecipe(auxiliary_weight=0.0, **sizes)
    network = NetworkSpec(recipe, (32, 32, 3), 10).build(published.architecture(arguments.genotype))
    plain = conversion.convert(network.inference_model(), (32, 32, 3), 17)
    kinds = {"as converted": ()}
    for index, name in enumerate(rewrites.DEFAULT):
        kinds[f"+ {name}"] = rewrites.DEFAULT[: index + 1]
    kinds |= {
        f"all, and {name}": (*rewrites.DEFAULT, name) for name in rewrites.REWRITES if name not in rewrites.DEFAULT
    }
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.onnx") for number in range(len(kinds))]
        for path, chosen in zip(files, kinds.values()):
            onnx.save(rewrites.optimize(plain, chosen), path)
        timing = {"batch_sizes": arguments.batch_size, "threads": arguments.threads, "runs": arguments.runs}
        result = benchmark([OnnxFile(path) for path in files], **timing)
        shares = convolution_share(files[len(rewrites.DEFAULT)])
        nodes = [len(onnx.load(path).graph.node) for path in files]
    ratios = {(row["model"], row["batch_size"]): row for row in result["comparisons"]}
    rows = []
    for model in result["models"]:
        number = files.index(Path(model["name"]))
        row = {"rewrites": list(kinds)[number], "nodes": nodes[number], "batch_size": model["batch_size"]}
        row |= {name: model[name] for name in ("p50_ms", "p50_interval_ms", "unstable")}
        compared = ratios.get((model["name"], model["batch_size"]), {})
        rows.append(row | {name: compared.get(name) for name in ("ratio", "interval", "verdict")})
    report = {"configuration": vars(arguments), "rows": rows, "convolution_share": shares}
    print(json.dumps(report | {"machine": result["models"][0]["device"]}, indent=2))


def convolution_share(path, runs=20):
    """Share of the time of all operators that is spent in convolutions, by ONNX Runtime's profiler and one thread."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(1, *session.get_inputs()[0].shape[1:])).astype("float32")
    for _ in range(runs):
        session.run(None, {"images": images})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event.get("name", "").endswith("_kernel_time")]
    spent = sum(event["dur"] for event in kernels)
    return sum(event["dur"] for event in kernels if event["args"]["op_name"] == "Conv") / spent


if __name__ == "__main__":
    main()
