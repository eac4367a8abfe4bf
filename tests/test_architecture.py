"""The plan of the house, held by imports: layers strictly downwards, no circles, who may import what."""

import ast
import functools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# top to bottom; what shares a row does not import each other
ROWS: tuple[tuple[str, ...], ...] = (
    ("__main__", "compile"),
    ("cli",),
    ("console",),
    ("api", "client"),
    ("decider",),
    ("estimator",),
    ("estimator_file",),
    ("sandbox",),
    ("node",),
    ("audit",),
    ("reports",),
    ("tasks",),
    ("online",),
    ("protocols",),
    ("evidence",),
    ("release",),
    ("features",),
    ("models",),
    ("data", "fabric", "crypto"),
    ("terms",),
    ("keys", "lattice"),
    ("wire",),
    ("files",),
    ("kernels",),
    ("errors", "arrays", "v1", "__init__"),
)
ROW_OF = {room: number for number, rooms in enumerate(ROWS) for room in rooms}
INSTITUTIONS = ("coordinator", "party_bank", "party_court", "party_registry", "party_tax")
COORDINATOR_REACHES = {"errors", "v1", "wire", "files", "keys", "fabric", "terms", "evidence"}
ADDING_ROLE = "veilscore.protocols.adding"
SOLE_IMPORTERS = {
    "grpc": "veilscore.fabric.grpc_channel",
    "tenseal": "veilscore.crypto.he",
    "opendp": "veilscore.sandbox.noise",
    "syft_job": "veilscore.sandbox.syft_envelope",
    "highspy": "party_bank.portfolio",
    "segno": "party_bank.offers",
    "openai": "party_bank.assistants.language_model",
    "docxtpl": "party_bank.assistants.word",
    "typst": "party_bank.assistants.pdf",
    "authlib": "veilscore.console.oidc",
    "opentelemetry": "veilscore.fabric.traces",
    "uvicorn": "veilscore.fabric.https",
    "webauthn": "veilscore.console.passkeys",
}
PURE = {"protocols", "lattice", "crypto"}
IMPURE_MODULES = {"os", "pathlib", "asyncio", "sqlite3"}
MAX_LINES = 450

# Exceptions may go, never come.
UPWARD: set[tuple[str, str]] = set()
LONGER: dict[str, int] = {}


@functools.cache
def modules():
    """Module name -> path, of all that the product is made of but generated code."""
    found = {}
    for package in ("veilscore", *INSTITUTIONS):
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT).with_suffix("")
            if "v1" not in relative.parts:
                found[".".join(relative.parts)] = path
    return found


@functools.cache
def tree(name):
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def statements(node):
    """All statements below a node; what is in their expressions, most of a tree, is left aside."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for below in getattr(node, name, ()):
            yield below
            yield from statements(below)


@functools.cache
def imports(name):
    """All modules that a file imports, wherever in it, `TYPE_CHECKING` included."""
    found = set()
    for node in statements(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {
                full if (full := f"{node.module}.{alias.name}") in modules() else _with_init(node.module)
                for alias in node.names
            }
    return frozenset(found)


def _with_init(module):
    return f"{module}.__init__" if f"{module}.__init__" in modules() else module


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def own(name):
    return {i for i in imports(name) if i.split(".")[0] == "veilscore"}


def veilscore_modules():
    return [name for name in modules() if name.startswith("veilscore.")]


def test_every_room_has_a_row():
    assert {room(name) for name in veilscore_modules()} <= set(ROW_OF)
    folders = {room(name) for name, path in modules().items() if path.parent.parent == ROOT / "veilscore"}
    assert len(folders) <= 21


def test_imports_run_downwards():
    upward = {
        (name, imported)
        for name in veilscore_modules()
        for imported in own(name)
        if room(imported) != room(name) and ROW_OF[room(imported)] <= ROW_OF[room(name)]
    }
    assert sorted(upward - UPWARD) == []
    assert sorted(UPWARD - upward) == [], "an exception that is no longer needed must go"


def test_no_circles_of_files():
    state, path, circles = {}, [], []

    def visit(name):
        state[name] = "open"
        path.append(name)
        for imported in sorted(i for i in imports(name) if i in modules()):
            if state.get(imported) == "open":
                circles.append(" -> ".join([*path[path.index(imported) :], imported]))
            elif imported not in state:
                visit(imported)
        path.pop()
        state[name] = "done"

    for name in modules():
        if name not in state:
            visit(name)
    assert circles == []


def test_veilscore_imports_no_institution_and_they_never_each_other():
    for name in modules():
        package = name.split(".")[0]
        others = {i.split(".")[0] for i in imports(name)} & set(INSTITUTIONS) - {package}
        assert not others, f"{name} imports {others}"


def test_what_was_approved_is_all_that_runs():
    from veilscore.files.digests import PACKAGES

    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(PACKAGES) == packages == {"veilscore", *INSTITUTIONS}


def test_the_coordinator_reaches_nothing_that_computes():
    for name in (n for n in modules() if n.startswith("coordinator")):
        beyond = {i for i in own(name) if room(i) not in COORDINATOR_REACHES} - {ADDING_ROLE, "veilscore.__init__"}
        assert not beyond, f"{name} imports {sorted(beyond)}"


def test_of_the_institutions_only_their_commands_reach_the_command_line():
    for name in (n for n in modules() if not n.startswith("veilscore.")):
        assert ".cli." in f"{name}." or not {i for i in own(name) if room(i) == "cli"}, name


def test_parties_reach_no_cryptography():
    for name in (n for n in modules() if n.startswith("party_")):
        beyond = {i for i in own(name) if room(i) in PURE}
        assert not beyond, f"{name} imports {sorted(beyond)}"


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_one_importer_of_each_library(library):
    importers = {n for n in modules() if any(i.split(".")[0] == library for i in imports(n))}
    assert importers == {SOLE_IMPORTERS[library]}


def test_protocols_and_kernels_have_no_files_sockets_or_loops():
    for name in (n for n in veilscore_modules() if room(n) in PURE):
        assert not {i.split(".")[0] for i in imports(name)} & IMPURE_MODULES, name


def test_public_class_names_are_unique():
    names = Counter(
        node.name
        for module in modules()
        for node in tree(module).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {n: length for n, length in lengths.items() if length > LONGER.get(n, MAX_LINES)} == {}
    assert {n for n, most in LONGER.items() if lengths.get(n, 0) <= MAX_LINES or lengths[n] < most} == set(), "ratchet"


def test_the_command_line_loads_no_kernel():
    code = (
        "import sys, veilscore.cli; print(sorted({'numba', 'grpc', 'duckdb', 'numpy', 'tenseal'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
