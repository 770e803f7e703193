"""The house rules: who may import whom, what is packaged, what is pinned. Imports are read, not run."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SIBLINGS = ("cli", "export", "hardware", "runtime")
OPTIMUM = "optimum.commands.register"  # a namespace of optimum's, where its command line looks for others' commands
FOLDERS = {
    OPTIMUM: ROOT / "cli" / "optimum",
    **{f"switchkd.{name}": ROOT / name for name in SIBLINGS},
    "switchkd": ROOT / "switchkd",
}
TRAINING_PACKAGES = {"torch", "transformers", "accelerate", "deepspeed", "safetensors", "matplotlib", "tensorboard"}


def find_modules() -> dict[str, Path]:
    """Every module of the package, by the name it is imported under."""
    found: dict[str, Path] = {}
    for package, folder in FOLDERS.items():
        for path in set(folder.rglob("*.py")) - set(found.values()):
            inner = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in inner if part != "__init__")))] = path
    return found


MODULES = find_modules()


class ImportReader(ast.NodeVisitor):
    """Names that a module imports, split into those on module level and those inside functions."""

    def __init__(self, package: str = "") -> None:
        self._package = package  # that relative imports start from
        self.eager: set[str] = set()
        self.lazy: set[str] = set()
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        # What only a type checker reads isn't imported.
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._add(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = importlib.util.resolve_name("." * node.level + (node.module or ""), self._package)
        # `from package import module` loads the module too.
        names = (f"{source}.{alias.name}" for alias in node.names)
        self._add([source, *(name for name in names if name in MODULES)])

    def _add(self, names) -> None:
        (self.lazy if self._depth else self.eager).update(names)


@cache
def read_imports(module: str) -> ImportReader:
    path = MODULES[module]
    reader = ImportReader(module if path.name == "__init__.py" else module.rpartition(".")[0])
    reader.visit(ast.parse(path.read_text()))
    return reader


def all_imports(module: str) -> set[str]:
    reader = read_imports(module)
    return reader.eager | reader.lazy


def loaded_by(module: str) -> set[str]:
    """Everything that `import module` loads, through our own modules: their names and outside packages' top names."""
    reached, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if not is_ours(name):
            reached.add(name.partition(".")[0])
        elif name not in reached:
            reached.add(name)
            parents = [name.rsplit(".", 1)[0]] if "." in name else []
            waiting += [*read_imports(name).eager, *parents]
    return reached


def is_ours(name: str) -> bool:
    return name.partition(".")[0] == "switchkd"


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def modules_of(package: str) -> list[str]:
    return sorted(name for name in MODULES if within(name, package))


CORE = sorted(name for name in MODULES if not within(name, OPTIMUM, *(f"switchkd.{name}" for name in SIBLINGS)))
TORCH_FREE = [name for name in CORE if not loaded_by(name) & TRAINING_PACKAGES]


def test_every_import_of_ours_names_a_module_that_exists():
    for module in MODULES:
        for name in filter(is_ours, all_imports(module)):
            assert name in MODULES, f"{module} imports {name}"


def test_imports_have_no_cycle():
    """Those inside functions count too: such a module can't be understood without the other."""
    graph = {module: {name for name in all_imports(module) if is_ours(name)} for module in MODULES}
    TopologicalSorter(graph).prepare()  # its CycleError names the modules


def test_no_file_is_longer_than_350_lines():
    folders = [*FOLDERS.values(), *(ROOT / name for name in ("benchmarks", "docs", "tests"))]
    lengths = {path: len(path.read_text().splitlines()) for folder in folders for path in folder.rglob("*.py")}
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_core_imports_none_of_its_siblings():
    for module in CORE:
        for name in all_imports(module):
            assert not within(name, *(f"switchkd.{sibling}" for sibling in SIBLINGS)), f"{module} imports {name}"


def test_hardware_imports_the_standard_library_only():
    for module in modules_of("switchkd.hardware"):
        for name in all_imports(module):
            standard = name.partition(".")[0] in sys.stdlib_module_names
            assert standard or within(name, "switchkd.hardware"), f"{module} imports {name}"


def test_runtime_imports_hardware_and_torch_free_modules():
    reference, figures = "switchkd.runtime.engines.pytorch", "switchkd.runtime.bench.figures"
    for module in modules_of("switchkd.runtime"):
        assert not loaded_by(module) & TRAINING_PACKAGES, f"importing {module} loads training packages"
        for name in all_imports(module) - {module}:
            lazy = name in read_imports(module).lazy
            if lazy and (module == reference or (module == figures and within(name, "matplotlib"))):
                continue
            assert name.partition(".")[0] not in TRAINING_PACKAGES, f"{module} imports {name}"
            allowed = name in TORCH_FREE or within(name, "switchkd.hardware", "switchkd.runtime")
            assert allowed or not is_ours(name), f"{module} imports {name}"


def test_only_cli_imports_cli():
    for module in MODULES:
        if not within(module, "switchkd.cli", OPTIMUM):
            assert not any(within(name, "switchkd.cli") for name in all_imports(module)), module


@pytest.mark.parametrize("module", ["", ".manifest", ".prompt", ".preprocess", ".errors"])
def test_shared_modules_need_no_torch(module: str):
    assert f"switchkd{module}" in TORCH_FREE


def test_help_loads_little():
    """`skd --help` loads click and the standard library: commands import what they need in their bodies."""
    outside = {name for name in loaded_by("switchkd.cli.main") if not is_ours(name)}
    assert outside - sys.stdlib_module_names == {"click"}


def test_reading_agrees_with_running():
    """The reader above sees what Python loads, in the command line's case."""
    code = "import sys, switchkd.cli.main; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert {name for name in loaded if is_ours(name)} == {
        name for name in loaded_by("switchkd.cli.main") if is_ours(name)
    }
    assert not loaded & (TRAINING_PACKAGES | {"numpy", "rich"})


def test_bare_folder_names_are_banned(tmp_path: Path):
    """`import export` would work from the checkout alone; ruff refuses it."""
    bad = tmp_path / "bad.py"
    bad.write_text("".join(f"import {name}\n" for name in SIBLINGS))
    ruff = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--output-format", "concise"]
    result = subprocess.run([*ruff, "--config", ROOT / "pyproject.toml", bad], capture_output=True, text=True)
    assert result.stdout.count("TID251") == len(SIBLINGS), result.stdout + result.stderr


def test_package_list_equals_the_folders():
    found = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    settings = PYPROJECT["tool"]["setuptools"]
    assert set(settings["packages"]) == found
    assert settings["package-dir"] == {package: str(path.relative_to(ROOT)) for package, path in FOLDERS.items()}
    for package in found - {OPTIMUM}:  # optimum wants none there
        assert package in MODULES and MODULES[package].name == "__init__.py", f"{package} lacks an __init__.py"


def pinned_versions() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines), "a package is pinned twice"
    return pins


def declared_requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return [requirement for text in texts if (requirement := Requirement(text)).name != project["name"]]


def test_every_dependency_is_pinned_at_an_allowed_version():
    pins = pinned_versions()
    for requirement in declared_requirements():
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} isn't in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} doesn't allow the pinned {version}"


def test_dependencies_of_dependencies_are_pinned():
    """So that the tested set stays the tested set. What torch needs beyond them differs with the machine's accelerator."""
    pins, seen = pinned_versions(), {"torch"}
    waiting = declared_requirements()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = str(requirement)
        if key in seen or name == "torch":
            continue
        seen.add(key)
        assert name in pins, f"{requirement} is needed and isn't in constraints.txt"
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that isn't installed here
        extras = requirement.extras | {""}
        for inner in map(Requirement, needed):
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(inner)


def test_torch_is_installed_by_its_exact_pin_before_anything_else():
    printed = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup"],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": True, "env": {"PATH": "/usr/bin:/bin"}},
    ).stdout
    installs = [line for line in printed.splitlines() if " install " in line]
    assert installs[0].split()[-1] == f"torch=={pinned_versions()['torch']}"
    assert "--constraint constraints.txt" in installs[1]


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "constraints.txt", "Makefile", ".ci/run", "README.md", "CONTRIBUTING.md"]
)
def test_no_registry_host_is_named(name: str):
    assert not re.search(r"pypi|index-url|find-links|pythonhosted", (ROOT / name).read_text(), re.IGNORECASE)
