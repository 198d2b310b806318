"""The published genotypes as ONNX files: what they cost, and what they take in ONNX Runtime.

    python benchmarks/zoo.py [--only SHARP_DARTS ...] [--sizes cifar10 imagenet] [--threads 2] [--runs 100]

Exports each genotype with random weights at the sizes of tables 2 and 3 into `exported/`, each through the gate, and
times those of one size in turns, at batch 1 and 8. Writes `exported/zoo.json`, the table in `exported/README.md`, and
`exported/zoo.png`, p50 against AddMults. The `.onnx` files stay there, out of git. `make zoo` calls it.
"""

import argparse
from pathlib import Path

from sharpkeras.io import atomic_writes
from sharpkeras.recipes import NETWORKS
from sharpkeras_cli.options import choose_backend

FOLDER = Path(__file__).resolve().parent.parent / "exported"
DARTS_OPS = ("NASNet-A", "AmoebaNet-A", "DARTS_V1", "DARTS_V2")  # published with the layers of DARTS
BATCH_SIZES = (1, 8)
BEGIN, END = "<!-- zoo -->", "<!-- end of zoo -->"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--only", nargs="+", help="names of genotypes")
parser.add_argument("--sizes", nargs="+", default=list(NETWORKS), choices=NETWORKS)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--runs", type=int, default=100)
parser.add_argument("--out", type=Path, default=FOLDER)


def main():
    arguments = parser.parse_args()
    choose_backend("tensorflow")
    from sharpkeras.paper import published
    from sharpkeras.view.latency import draw_latency

    names, rows, setting = arguments.only or published.names(), [], {}
    for size in arguments.sizes:
        reports = {name: exported(name, size, arguments.out / f"{name}-{size}.onnx") for name in names}
        found, setting = timed(size, reports, arguments)
        rows += found
    report = {"schema_version": 1, **setting, "rows": rows}
    atomic_writes.write(arguments.out / "zoo.json", atomic_writes.dump_file(report, "zoo"))
    draw_latency(rows, arguments.out / "zoo.png")
    write_table(arguments.out / "README.md", rows, setting)


def exported(name, size, path):
    """The report of the export of a genotype's network."""
    import sharpkeras as sk

    print(f"exporting {path.name} …", flush=True)
    return sk.export(name, path, overwrite=True, network=size, ops="darts" if name in DARTS_OPS else "sharp")


def timed(size, reports, arguments):
    """Rows of the networks of one size, and what they hold for."""
    from sharpkeras.measure.latency.benchmark import OnnxFile, benchmark

    print(f"timing {len(reports)} networks of {size} …", flush=True)
    contenders = [OnnxFile(arguments.out / report["file"]) for report in reports.values()]
    timing = {"batch_sizes": BATCH_SIZES, "threads": arguments.threads, "runs": arguments.runs}
    rows = []
    for model in benchmark(contenders, **timing)["models"]:
        name, report = next((name, report) for name, report in reports.items() if report["file"] == model["file"])
        row = {"name": name, "size": size, "batch_size": model["batch_size"], **report["cost"]}
        row |= {key: report[key] for key in ("nodes", "bytes", "relative_difference", "addmults_conv_dense_of_file")}
        keys = ("p50_ms", "p50_interval_ms", "p90_ms", "p90_interval_ms", "peak_memory_mib", "unstable")
        rows.append(row | {key: model[key] for key in keys})
    return rows, {key: model[key] for key in ("device", "threads", "runs", "versions", "providers")}


def write_table(path, rows, setting):
    """Puts the table between its marks in a Markdown file that is there."""
    lines = [
        "| network | parameters | AddMults (paper) | conv, dense of the file | nodes | file | p50, batch 1 | batch 8 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for first in [row for row in rows if row["batch_size"] == BATCH_SIZES[0]]:
        times = [row for row in rows if (row["name"], row["size"]) == (first["name"], first["size"])]
        cells = [
            f"{first['name']}, {first['size']}",
            f"{first['parameters']:,}",
            f"{first['addmults_paper'] / 1e6:,.1f} M",
            f"{first['addmults_conv_dense_of_file'] / 1e6:,.1f} M",
            str(first["nodes"]),
            f"{first['bytes'] / 1e6:.1f} MB",
        ]
        for row in times:
            low, high = row["p50_interval_ms"]
            noisy = " UNSTABLE" if row["unstable"] else ""
            cells.append(f"{row['p50_ms']:.1f} ms ({low:.1f}–{high:.1f}){noisy}")
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    how = f"{setting['threads']} threads, {setting['runs']} runs in turns, {versions}; 95 % intervals"
    before, rest = path.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    content = f"{before}{BEGIN}\n{setting['device']}, {how}.\n\n" + "\n".join(lines) + f"\n{END}{after}"
    atomic_writes.write(path, content.encode())


if __name__ == "__main__":
    main()
