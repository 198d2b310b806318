"""The script for a machine with a GPU, rehearsed on the CPU without what such a machine may not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MISSING = ("tensorflow", "tensorflow_datasets", "onnx", "onnx_ir", "onnxruntime", "tf2onnx", "h5py", "torch", "click")

# Read by Python when it starts, in every process that the script starts too.
SITECUSTOMIZE = f"""
import importlib.machinery
find_spec = importlib.machinery.PathFinder.find_spec
def without_missing(name, path=None, target=None):
    return None if name.split(".")[0] in {MISSING} else find_spec(name, path, target)
importlib.machinery.PathFinder.find_spec = without_missing
"""


def test_rehearsal_without_tensorflow(tmp_path):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    out, parts = tmp_path / "gpu.json", ["machine", "depthwise", "cost", "search"]
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--out", str(out), "--only", *parts]
    environment = {**os.environ, "PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}
    wheels = ["--wheels", str(tmp_path / "packages")]
    done = subprocess.run([*command, *wheels], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())["parts"]
    assert {name: (part["ended"], part.get("said")) for name, part in found.items()} == {
        name: ("finished", None) for name in parts
    }
    assert {figure["form"] for figure in found["depthwise"]["figures"]} == {"convolution", "shifted"}
    assert found["search"]["figures"][0]["forecast_minutes"] > 0
    cost = found["cost"]["figures"][0]
    assert cost["kernels"] > 0 and cost["flops"] > 0


def test_a_part_out_of_time_keeps_what_it_found(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--out", str(out), "--only", "machine", "search"]
    done = subprocess.run([*command, "--seconds", "0.001"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parts = json.loads(out.read_text())["parts"]
    assert parts["machine"]["ended"].startswith("time is up") and parts["search"]["ended"].startswith("not begun")
