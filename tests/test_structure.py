"""The shape of the project: who may import whom, what --help loads, what is packaged, what no file may hold."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Every part may import itself and these, which know nothing else of sharpkeras.
LEAVES = {"errors", "io"}
MAY_IMPORT = {
    "errors": "",
    "io": "",
    # layers, weighting, schedule, optimizers, measure, runs, data: nothing of sharpkeras
    "backend": "",
    "layers": "backend",
    "weighting": "",
    "schedule": "",
    "optimizers": "",
    "serialization": "",
    "user_modules": "",
    "measure": "",
    "data": "",
    "primitives": "layers",
    # view: a space draws itself
    "spaces": "primitives layers weighting backend measure view",
    "engine": "backend runs",
    "searching": "runs engine backend",
    "training": "runs engine optimizers",
    "onnx_export": "measure",
    "view": "",
    # whose tables say what a setting can be; they are read without Keras
    "recipes": "primitives weighting spaces",
    "paper": "spaces",
    "runs": "spaces paper",
    # what strangers made is looked at without Keras; spaces for their dataclasses, no network is built
    "inspection": "data measure recipes runs spaces",
    # starts the command line in processes: what their rows can be is asked of the tables, no network is built
    "sweeping": "data engine measure paper recipes runs spaces",
    "experiment": "everything",
    # measure, data, primitives and the tables of spaces: what needs no Keras is asked without it
    "cli": "api user_modules experiment inspection recipes runs engine measure data primitives paper spaces sweeping",
    "api": "everything",
    "__init__": "everything",  # for type checkers; see test_api for what is loaded
}

ONLY_IMPORTED_BY = {
    "click": ["cli"],
    "matplotlib": ["sharpkeras/view"],
    "onnx": ["sharpkeras/onnx_export", "sharpkeras/io/onnx_files.py"],
    "onnx_ir": ["sharpkeras/onnx_export"],
    "tf2onnx": ["sharpkeras/onnx_export"],
    "onnxruntime": ["sharpkeras/onnx_export", "sharpkeras/measure/latency/worker.py"],
    "tensorflow_datasets": ["sharpkeras/data"],
    "tensorflow": ["sharpkeras/backend", "sharpkeras/data", "sharpkeras/onnx_export"],
    "jax": ["sharpkeras/backend"],
    "torch": [],
    "ray": ["sharpkeras/sweeping/pools.py"],
    "submitit": ["sharpkeras/sweeping/pools.py"],
}

HEAVY = {"tensorflow", "tensorflow_datasets", "keras", "jax", "onnx", "onnx_ir", "onnxruntime", "matplotlib", "sklearn"}
HEAVY |= {"ray", "submitit"}
SHARED_BY_SPACES = {
    f"sharpkeras.spaces.{name}"
    for name in ("architecture", "best_within", "cached_state", "final_network", "mixing", "search_space", "state_dict")
}
UNSAFE_MODULES = {"pickle", "yaml", "marshal", "shelve", "dill", "joblib"}

# Written so that this file does not hold what it looks for.
FORBIDDEN_TEXT = {
    "a registry address": r"pypi[.]org|pythonhosted[.]org|index[-]url|find[-]links|//[^ \"]*/simple(/|\b)",
    "a path of the machine it was made on": r"(^|[^\w.])/(work|farm|home|root|Users)/",
}


def sources():
    return sorted(path for folder in ("sharpkeras", "cli") for path in (ROOT / folder).rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_name(path): path for path in sources()}


def imports(path):
    """The modules that a file imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def part(module):
    """ "spaces" of sharpkeras.spaces.cell.space."""
    parts = module.split(".")
    if parts[0] in ("cli", "sharpkeras_cli"):
        return "cli"
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_who_may_import_whom(module):
    importer = part(module)
    assert importer in MAY_IMPORT, f"{module} is new: say in MAY_IMPORT what it may import"
    allowed = {importer, *LEAVES, *MAY_IMPORT[importer].split()}
    ours = {part(name) for name in imports(MODULES[module]) if name.split(".")[0] in ("sharpkeras", "sharpkeras_cli")}
    ours.discard("__init__")  # `sharpkeras` itself holds the version and nothing heavy
    if "everything" in allowed:
        assert "cli" not in ours
    else:
        assert ours <= allowed, f"{module} may not import {', '.join(sorted(ours - allowed))}"


def test_every_allowance_is_used():
    used = {}
    for module, path in MODULES.items():
        used.setdefault(part(module), set()).update(part(name) for name in imports(path))
    unused = {name: set(allowed.split()) - {"everything"} - used[name] for name, allowed in MAY_IMPORT.items()}
    assert not {name: parts for name, parts in unused.items() if parts}


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) in ("searching", "training")])
def test_search_and_training_know_no_space(module):
    assert not [name for name in imports(MODULES[module]) if name.startswith("sharpkeras.spaces.")]


@pytest.mark.parametrize(
    "module",
    [module for module in MODULES if module.startswith(("sharpkeras.spaces.cell", "sharpkeras.spaces.hypercuboid"))],
)
def test_spaces_do_not_know_each_other(module):
    own = ".".join(module.split(".")[:3])
    names = [name for name in imports(MODULES[module]) if name.startswith("sharpkeras.spaces.")]
    assert {".".join(name.split(".")[:3]) for name in names if name not in SHARED_BY_SPACES} <= {own}


@pytest.mark.parametrize("module", MODULES)
def test_frameworks_stay_where_they_belong(module):
    place = MODULES[module].relative_to(ROOT).as_posix()
    for name in {name.split(".")[0] for name in imports(MODULES[module])} & ONLY_IMPORTED_BY.keys():
        allowed = ONLY_IMPORTED_BY[name]
        assert any(place == home or place.startswith(f"{home}/") for home in allowed), f"{place} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_evaluated_or_unpickled(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not names & {"eval", "exec", "__import__"}
    assert not UNSAFE_MODULES & {name.split(".")[0] for name in imports(MODULES[module])}


def public_functions(body):
    """The functions of a module and of its classes whose names have no underscore in front, and `__init__`."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield node


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_type_hints(module):
    for function in public_functions(ast.parse(MODULES[module].read_text(encoding="utf-8")).body):
        of = function.args
        parameters = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, (of.vararg, of.kwarg))]
        unhinted = [each.arg for each in parameters if not each.annotation and each.arg not in ("self", "cls")]
        assert not unhinted and function.returns, f"{function.name}, line {function.lineno}: {unhinted or 'its result'}"


@pytest.mark.parametrize("path", sorted((ROOT / "cli" / "commands").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_command_has_a_help_text(path):
    commands = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        for call in [decorator.func if isinstance(decorator, ast.Call) else decorator]
        if isinstance(call, ast.Attribute) and call.attr in ("command", "group")
    ]
    assert commands, f"{path} has no command"
    for function in commands:
        assert ast.get_docstring(function), f"{function.name} in {path} has no help text"


HELP = """
import sys, click
from sharpkeras_cli.main import group
for name in [None, *group.list_commands(click.Context(group))]:
    group([name, "--help"] if name else ["--help"], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""


def test_help_is_light():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "search" in done.stdout and "quickstart" in done.stdout
    assert not HEAVY & set(done.stderr.split())


def tracked_texts():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("no git checkout")
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes():
            yield name, path.read_text(encoding="utf-8")


def test_no_file_holds_what_belongs_to_a_machine():
    found = [
        f"{name}, line {number}: {what}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in FORBIDDEN_TEXT.items()
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


BUILD = "import sys; sys.path.insert(0, ''); from cli import build_backend; build_backend.build_editable(sys.argv[1])"
IMPORT = """
import site, sys
site.addsitedir(sys.argv[1])
import sharpkeras, sharpkeras_cli, sharpkeras.errors
print(sharpkeras.__file__, sharpkeras_cli.__file__, sep="\\n")
"""


@pytest.mark.parametrize("place", ("beside", "inside", "elsewhere"))
def test_no_folder_hides_an_editable_install(place, editable, tmp_path):
    """A folder called sharpkeras, such as that of a clone with the runs in it, is a package to Python."""
    (tmp_path / "sharpkeras" / "runs").mkdir(parents=True)
    (tmp_path / "sharpkeras" / "sharpkeras").symlink_to(ROOT / "sharpkeras")
    folder = {"beside": tmp_path, "inside": ROOT, "elsewhere": tmp_path / "sharpkeras" / "runs"}[place]
    command = [sys.executable, "-S", "-c", IMPORT, str(editable)]  # without whatever is installed here
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [Path(line).resolve() for line in done.stdout.splitlines()]
    assert files == [ROOT / "sharpkeras" / "__init__.py", ROOT / "cli" / "__init__.py"]


@pytest.fixture(scope="session")
def editable(tmp_path_factory):
    """What `pip install --editable .` puts beside other packages."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("editable")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "packages")
        names, record = archive.namelist(), next(name for name in archive.namelist() if name.endswith("/RECORD"))
        listed = archive.read(record).decode().splitlines()
    assert sorted(line.split(",")[0] for line in listed) == sorted(names)
    return folder / "packages"


def test_every_folder_is_packaged():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent for path in sources()} | {path.parent for path in (ROOT / "sharpkeras").rglob("*.json")}
    dotted = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    names = {re.sub(r"^cli\b", "sharpkeras_cli", name) for name in dotted}
    assert names == set(project["tool"]["setuptools"]["packages"])


def test_the_lock_pins_every_package_with_hashes():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.findall(r"^([\w.-]+)==\S+((?:.*\\\n.*)+)", text, re.MULTILINE)
    assert len(blocks) == len(re.findall(r"^\w", text, re.MULTILINE)) > 50
    assert all("--hash=sha256:" in block for _, block in blocks)
    names = {name for name, _ in blocks}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = project["dependencies"] + extras["cpu"] + extras["test"] + extras["dev"] + extras["lock"]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in needed} <= names
