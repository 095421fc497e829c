"""What `pip install .` brings: one namespace, all data, and nothing that is not declared."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# For those who work on matchgraph.
TOOLS = {"test", "dev", "docs", "minizoo"}
# Not installed: tests, and measurements that lean on them.
LEFT_OUT = {"tests", "bench"}
LINKED = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} - LEFT_OUT - {"matchgraph"}
HELP_LIMIT_S = 0.5
# Imports every module, as `python -c` in a user's folder would.
IMPORT_ALL = """
import importlib, pkgutil, sys
import matchgraph
names = [m.name for m in pkgutil.walk_packages(matchgraph.__path__, "matchgraph.")]
for name in names:
    importlib.import_module(name)
heavy = {"torch", "diffusers", "transformers", "peft", "open_clip", "cleanfid", "catboost", "sklearn"}
heavy |= {"cv2", "scipy", "graphdatascience", "matplotlib", "pandas", "PIL", "safetensors"}
print(len(names), matchgraph.__file__, sorted(heavy & set(sys.modules)))
"""


def names_of(requirements: list[str]) -> set[str]:
    """Names of the distributions that requirements ask for, in their normal form."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


CORE = names_of(PROJECT["dependencies"])
OPTIONAL = names_of([line for extra, lines in EXTRAS.items() if extra not in TOOLS for line in lines])


def data_files() -> set[str]:
    """Paths within the wheel of all that is read at run time and is not a module."""
    minizoo = [ROOT / "minizoo" / part for part in ("records", "probes/clip")]
    files = [
        *(ROOT / "cypher").rglob("*.cypher"),
        *(ROOT / "cypher").glob("*.grass"),
        *(path for name in LINKED for path in (ROOT / name).rglob("*.jinja")),
        *(path for folder in minizoo for path in folder.rglob("*") if path.is_file()),
        *(ROOT / "graphdb/server").glob("*.lock"),
        *(ROOT / "ingest/tables").glob("*.json"),
    ]
    return {f"matchgraph/{path.relative_to(ROOT).as_posix()}" for path in files} | {"matchgraph/py.typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy: a `build/` folder of an earlier build would be packed as well."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    unused = shutil.ignore_patterns("__pycache__", "work", "models", "datasets", "students", "shared")
    for name in LINKED:
        shutil.copytree(ROOT / name, source / name, ignore=unused if name == "minizoo" else None)
    shutil.copytree(ROOT / "matchgraph", source / "matchgraph", symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run(command, cwd=source, check=True)
    return zipfile.ZipFile(next(source.glob("*.whl")))


@pytest.fixture(scope="module")
def installed(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for `python -S` that sees the wheel and what it requires, and no extra."""
    site, required = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("required")
    wheel.extractall(site)
    for name in closure(CORE):
        for top in {Path(file.parts[0]) for file in distribution(name).files or ()} - {Path("..")}:
            target = Path(str(distribution(name).locate_file(top)))
            if top.name != "__pycache__" and target.exists() and not (required / top).exists():
                (required / top).symlink_to(target)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (site, required)))}


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A folder whose own packages are named like rooms of ours."""
    for name in ("training", "cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the user's own')\n")
    return tmp_path


def closure(names: set[str]) -> set[str]:
    """Distributions and all that they require here, without extras."""
    found, left = set(), set(names)
    while left:
        name = left.pop()
        found.add(name)
        for requirement in map(Requirement, distribution(name).requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left |= {canonicalize_name(requirement.name)} - found
    return found


def imports_of(tree: ast.AST, *, inner: bool = False) -> Iterator[tuple[str, bool]]:
    """Top-level names that code imports, and whether that waits until a function is called."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0], inner
        else:
            waits = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from imports_of(node, inner=inner or waits or types)


def test_every_folder_with_code_is_linked_into_the_namespace():
    links = {path.name: path.resolve() for path in (ROOT / "matchgraph").iterdir() if path.is_symlink()}
    assert links == {name: ROOT / name for name in LINKED}


def test_constraints_pin_every_dependency_without_an_address():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all("==" in line or line.startswith("#") for line in lines)
    pins = names_of([line for line in lines if "==" in line])
    asked = CORE.union(*map(names_of, EXTRAS.values())) - {"matchgraph"}
    assert asked <= pins, f"no pin in constraints.txt: {asked - pins}"


def test_every_import_is_a_declared_dependency_and_those_of_extras_wait():
    known, wrong = packages_distributions(), []
    for name in sorted(LINKED | {"matchgraph"}):
        for path in (ROOT / name).rglob("*.py"):
            if (ROOT / "minizoo/build") in path.parents or path.is_symlink():
                continue
            for module, waits in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
                # That of types alone is part of type checkers.
                if module in {*sys.stdlib_module_names, "matchgraph", "_typeshed"}:
                    continue
                # Of an extra that the tests do without, the package is named as its module.
                from_ = {canonicalize_name(name) for name in known.get(module, [module])}
                if not from_ & (CORE | OPTIONAL if waits else CORE):
                    wrong.append(f"{path.relative_to(ROOT)} imports {module} of {sorted(from_)}")
    assert not wrong


@pytest.mark.slow
def test_the_wheel_holds_one_package_and_all_its_data(wheel: zipfile.ZipFile):
    names = set(wheel.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"matchgraph"}
    assert data_files() <= names
    modules = {path.relative_to(ROOT).as_posix() for name in LINKED for path in (ROOT / name).rglob("*.py")}
    own = ROOT / "matchgraph"
    modules |= {path.relative_to(own).as_posix() for path in own.rglob("*.py")}
    installed = {f"matchgraph/{name}" for name in modules if not name.startswith("minizoo/build/")}
    assert {name for name in names if name.endswith(".py")} == installed
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_every_module_of_the_wheel_imports_without_extras_beside_a_users_own_packages(
    installed: dict[str, str], users_folder: Path
):
    done = subprocess.run(
        [sys.executable, "-S", "-c", IMPORT_ALL],
        cwd=users_folder,
        env=installed,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count, file, heavy = done.stdout.strip().split(" ", 2)
    assert int(count) > 150
    assert Path(file).is_relative_to(installed["PYTHONPATH"].split(os.pathsep)[0])
    assert heavy == "[]"


@pytest.mark.parametrize("module", ["ray", "fastapi", "sentence_transformers", "pytest"])
def test_extras_cannot_be_seen_in_that_installation(module: str, installed: dict[str, str], tmp_path: Path):
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is not None)"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=installed, check=True)


def test_the_installed_command_shows_its_help_at_once(
    wheel: zipfile.ZipFile, installed: dict[str, str], users_folder: Path
):
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "matchgraph = matchgraph.cli.main:main" in wheel.read(entry).decode()
    code = (
        "import sys, time; from matchgraph.cli.main import run; code = run(['--help']);"
        "print(time.process_time(), file=sys.stderr); sys.exit(code)"
    )
    tries = [
        subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=users_folder,
            env=installed,
            capture_output=True,
            text=True,
        )
        for _ in range(3)
    ]
    assert all(done.returncode == 0 for done in tries), tries[0].stderr
    assert "Usage: matchgraph" in tries[0].stdout
    # The time of the processor: that of the clock depends on what else runs.
    assert min(float(done.stderr) for done in tries) < HELP_LIMIT_S
