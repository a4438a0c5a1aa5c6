"""Who may import whom: workers -> pipeline, never back; nothing heavy at start-up; no cycles."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("noisemill", "pipeline", "workers", "training", "benchmarks")
HEAVY = ("tensorflow", "keras", "numpy", "redis", "boto3", "botocore", "celery", "kombu", "PIL")


def find_modules(root: Path, *packages: str) -> dict[str, Path]:
    """Dotted name -> file of every module of the packages that are there."""
    modules = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def _statements(node: ast.AST, *, at_import_only: bool) -> Iterator[ast.AST]:
    """Every node below this one; `at_import_only` leaves out what importing the module does not run."""
    for child in ast.iter_child_nodes(node):
        if at_import_only:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                for other in child.orelse:
                    yield other
                    yield from _statements(other, at_import_only=True)
                continue
        yield child
        yield from _statements(child, at_import_only=at_import_only)


def find_imports(name: str, modules: dict[str, Path], *, at_import_only: bool = False) -> set[str]:
    """Absolute names that a module imports, as far down as is known: `from a import b` is a.b if that is a module."""
    path = modules[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in _statements(ast.parse(path.read_text()), at_import_only=at_import_only):
        match node:
            case ast.Import(names=aliases):
                found |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=module, names=aliases, level=level):
                base = ".".join(package.split(".")[: len(package.split(".")) - level + 1]) if level else ""
                base = ".".join(filter(None, [base, module]))
                for alias in aliases:
                    submodule = f"{base}.{alias.name}"
                    found.add(submodule if submodule in modules else base)
            case ast.Call(func=func, args=[ast.Constant(value=str(target)), *_]):
                if ast.unparse(func) in ("import_module", "importlib.import_module", "__import__"):
                    found.add(target)
    return found


def find_forbidden(modules: dict[str, Path], package: str, *forbidden: str) -> list[str]:
    """`module -> import` for each import, anywhere in a package, of one of the forbidden packages."""
    return sorted(
        f"{name} -> {target}"
        for name in modules
        if name.split(".")[0] == package
        for target in find_imports(name, modules)
        if target.split(".")[0] in forbidden
    )


def find_cycle(modules: dict[str, Path]) -> list[str]:
    """The modules of one import cycle, first and last the same; empty if there is none."""
    graph = {name: find_imports(name, modules, at_import_only=True) & set(modules) - {name} for name in modules}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


#: Folders in the order of dependence: each imports only from itself and from those named before it.
ORDER = {
    "pipeline": (
        "common", "stores", "spec", "formats", "generators", "datasets", "jobs", "schedules", "fleet", "client", "ui",
        "cli",
    ),
    "workers": ("telemetry", "engine", "once", "making", "worker", "scheduler", "supervisor"),
}  # fmt: skip


def find_upward(modules: dict[str, Path], package: str, order: tuple[str, ...]) -> list[str]:
    """`module -> import` for each import from a folder that comes later in the order."""
    place = {f"{package}.{folder}": number for number, folder in enumerate(order)}

    def room(name: str) -> int | None:
        return place.get(".".join(name.split(".")[:2]))

    return sorted(
        f"{name} -> {target}"
        for name in modules
        for target in find_imports(name, modules)
        if (here := room(name)) is not None and (there := room(target)) is not None and there > here
    )


def modules_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after running some code."""
    probe = f"import sys\ntry:\n    exec({code!r})\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stderr.split()}


@pytest.fixture(scope="module")
def ours() -> dict[str, Path]:
    return find_modules(ROOT, *OURS)


def test_pipeline_never_imports_tensorflow(ours):
    assert find_forbidden(ours, "pipeline", "tensorflow", "keras") == []


def test_pipeline_never_imports_workers(ours):
    assert find_forbidden(ours, "pipeline", "noisemill", "workers", "training", "benchmarks", "tests") == []


def test_workers_import_no_tools(ours):
    assert find_forbidden(ours, "workers", "training", "benchmarks", "tests") == []


@pytest.mark.parametrize("package", ORDER)
def test_folders_import_one_way(ours, package):
    assert find_upward(ours, package, ORDER[package]) == []


@pytest.mark.parametrize("package", ORDER)
def test_every_folder_has_its_place_in_the_order(package):
    found = {path.stem for path in (ROOT / package).iterdir() if path.is_dir() or path.suffix == ".py"}
    assert found - {"__init__", "__pycache__"} == set(ORDER[package])


def test_no_import_cycles(ours):
    assert find_cycle(ours) == []


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import noisemill, pipeline, pipeline.cli", HEAVY),
        ("import sys; from pipeline.cli import main; sys.argv = ['noisemill', '--help']; main()", HEAVY),
        (
            "import sys; from pipeline.cli import main; sys.argv = ['noisemill', 'generate', '--help']; main()",
            ("tensorflow", "keras"),
        ),
        ("import pipeline.cli.jobs", ("numpy", "pipeline.generators")),
        ("import noisemill; noisemill.stream", ("tensorflow", "torch", "redis", "celery")),
    ],
    ids=["import", "help", "help of a command", "command without generators", "stream"],
)
def test_start_up_is_light(code, heavy):
    assert modules_after(code) & set(heavy) == set()


# The checker itself, on made-up packages.


def write_tree(root: Path, **files: str) -> dict[str, Path]:
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.relative_to(root).parents[:-1]:
            (root / folder / "__init__.py").touch()
    return find_modules(root, "a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "import tensorflow",
        "import tensorflow.lite as lite",
        "from tensorflow.lite import Interpreter",
        "def f():\n    import tensorflow",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tensorflow",
        "try:\n    import tensorflow\nexcept ImportError:\n    pass",
        "import importlib\ntf = importlib.import_module('tensorflow')",
    ],
)
def test_checker_finds_a_forbidden_import(tmp_path, text):
    modules = write_tree(tmp_path, a__x=text, a__y="import json")
    assert [line.split(".")[1][0] for line in find_forbidden(modules, "a", "tensorflow")] == ["x"]


def test_checker_leaves_similar_names_alone(tmp_path):
    modules = write_tree(tmp_path, a__x="import tensorflow_datasets\nfrom a import tensorflow", a__tensorflow="")
    assert find_forbidden(modules, "a", "tensorflow") == []


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("import a.y", "import a.x"),
        ("from a import y", "from a.x import name"),
        ("from . import y", "from .x import name"),
        ("if True:\n    from a import y", "class C:\n    from a import x"),
        ("from b import z", "from a import x"),
    ],
)
def test_checker_finds_a_cycle(tmp_path, x, y):
    modules = write_tree(tmp_path, a__x=x, a__y=y, b__z="from a import y")
    cycle = find_cycle(modules)
    assert {"a.x", "a.y"} <= set(cycle)
    assert cycle[0] == cycle[-1]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("from a import y", "import json"),
        ("from a import y", "def f():\n    from a import x"),
        ("from a import y", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import x"),
        ("from . import y", "from a.sub import z"),
    ],
)
def test_checker_accepts_what_is_no_cycle(tmp_path, x, y):
    assert find_cycle(write_tree(tmp_path, a__x=x, a__y=y, a__sub__z="")) == []


def test_checker_finds_an_import_from_a_later_folder(tmp_path):
    modules = write_tree(tmp_path, a__low__x="from a.high import y", a__high__y="import a.low.x", a__high__z="")
    assert find_upward(modules, "a", ("low", "high")) == ["a.low.x -> a.high.y"]


def test_checker_resolves_relative_imports(tmp_path):
    modules = write_tree(tmp_path, a__sub__x="from .. import y\nfrom ..other import name\nfrom .z import w", a__y="")
    assert find_imports("a.sub.x", modules) == {"a.y", "a.other", "a.sub.z"}


def test_probe_sees_imports():
    assert "json" in modules_after("def f():\n    import json\nf()")
    assert "json" in modules_after("import json, sys; sys.exit()")
