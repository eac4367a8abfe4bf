"""What is shipped: source archive, wheel, pinned packages, examples; and that a wheel alone does the main job."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, require
from packaging.requirements import Requirement

import veilscore
from veilscore import kernels
from veilscore.cli import example
from veilscore.errors import ConfigError

sys.path.insert(0, str(ROOT / "tools"))
import set_up

LEFT_OUT = (
    ".git",
    ".venv",
    ".*_cache",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    "demo-run",
    "*.log",
    ".hypothesis",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = {"requirements.lock": (), "requirements-demo.lock": ("demo",), "requirements-dev.lock": ("demo", "dev")}
BUILD = """
import sys
from setuptools import build_meta
_, folder = sys.argv  # which a build changes
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files of the repository alone."""
    folder = tmp_path_factory.mktemp("checkout") / "veilscore"
    return Path(shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT)))


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """Source archive and wheel."""
    folder = tmp_path_factory.mktemp("dist")
    source = shutil.copytree(checkout, tmp_path_factory.mktemp("source") / "veilscore", symlinks=True)
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=source, check=True, capture_output=True)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def files_of(checkout: Path) -> dict[str, bytes]:
    paths = [p for p in checkout.rglob("*") if p.is_file() and not p.is_symlink()]
    return {p.relative_to(checkout).as_posix(): p.read_bytes() for p in paths}


def test_the_source_archive_holds_the_whole_repository(built, checkout):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(files_of(checkout)) - names == set()
    assert {"LICENSE", "tests/conftest.py", "examples/demo.py", "benchmarks/all.py", "Makefile"} <= names


def test_the_wheel_holds_packages_licence_examples_and_nothing_else(built, checkout):
    with zipfile.ZipFile(built[1]) as wheel:
        content = {name: wheel.read(name) for name in wheel.namelist()}
    info = f"veilscore-{veilscore.__version__}.dist-info"
    licence = content[f"{info}/licenses/LICENSE"].decode()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    packages = ("veilscore", "coordinator", "party_bank", "party_court", "party_tax", "party_registry")
    assert {name.partition("/")[0] for name in content} == {info, *packages}
    own = {k: v for k, v in files_of(checkout).items() if k.startswith(tuple(f"{p}/" for p in packages))}
    examples = {k: v for k, v in files_of(checkout).items() if k.startswith("examples/") and not k.endswith(".py")}
    assert {k: v for k, v in content.items() if not k.startswith(info)} == {
        **own,
        **{f"veilscore/{k}": v for k, v in examples.items()},
    }


def test_metadata_names_one_version_and_no_heavy_requirement(built):
    with zipfile.ZipFile(built[1]) as wheel:
        text = wheel.read(f"veilscore-{veilscore.__version__}.dist-info/METADATA").decode()
    about = Parser().parsestr(text)
    assert about["Version"] == veilscore.__version__
    assert about["License-Expression"] == "Apache-2.0"
    core = {Requirement(r).name for r in about.get_all("Requires-Dist") if "extra ==" not in r}
    assert core >= {"tenseal", "numpy", "grpcio", "protobuf", "cryptography"}
    assert core & {"torch", "tensorflow", "jpype1", "pyspark", "docker", "syft"} == set()


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_by_hash_in_its_lock(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|@|file:|/tmp|/home|--(extra-)?index|--find-links", text)
    entries = re.findall(
        r"^([a-z0-9][^ ;\\]*?)==([^ ;\\]+)(?: ; ([^\\]*?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
        text,
        re.MULTILINE,
    )
    assert len(entries) == sum(not line.startswith((" ", "#")) for line in text.splitlines())
    versions: dict[str, list[str]] = {}
    for package, version, _marker, _hashes in entries:
        versions.setdefault(package, []).append(version)
    wanted = [*PROJECT["dependencies"], *(r for extra in LOCKS[name] for r in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, wanted):
        found = versions.get(re.sub(r"[-_.]+", "-", requirement.name).lower(), [])
        assert found, f"{requirement.name} is not in {name}: run `make lock`"
        assert all(requirement.specifier.contains(v) for v in found), (
            f"{requirement} is not met by {name}: run `make lock`"
        )


@pytest.mark.slow
def test_a_broken_lock_falls_back_to_the_ranges_of_the_project(checkout, tmp_path, monkeypatch, capfd):
    (checkout / "requirements.lock").write_text("<<<<<<< a merge\n", encoding="utf-8")
    python = environment_beside(tmp_path)
    monkeypatch.setattr(set_up, "ROOT", checkout)
    # offline: nothing is missing, and the build uses the setuptools that is there
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_NO_BUILD_ISOLATION", "0")):
        monkeypatch.setenv(name, value)
    set_up.install(python, "core")
    assert capfd.readouterr().err.startswith("warning: requirements.lock cannot be used here")
    shown = subprocess.run(
        [python, "-c", "import veilscore; print(veilscore.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == str(checkout / "veilscore" / "__init__.py")


@pytest.mark.slow
def test_what_has_no_wheel_is_named_in_one_sentence(checkout, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=True, symlinks=True)
    monkeypatch.setattr(set_up, "ROOT", checkout)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(
        SystemExit, match=r"^the package index has no \S+ for Python 3\S+ on \S+ \S+; Veilscore runs on CPython"
    ):
        set_up.install(tmp_path / "bare" / "bin" / "python", "core")


@pytest.mark.parametrize("hidden", ["os.name = 'nt'", "sys.version_info = (3, 10)"])
def test_an_unfit_machine_is_refused_in_one_sentence(hidden):
    code = f"import os, sys; {hidden}; sys.argv = ['veilscore']; import veilscore"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"Veilscore (needs Python 3\.11|runs on Linux and macOS)[^\n]+\n", done.stderr)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("veilscore'", "notebook'")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("ImportError: Veilscore ")


def test_the_demonstration_imports_what_its_set_up_installs():
    """This environment has more: without a look here, a fresh machine would be the first to tell."""
    lock = (ROOT / "requirements-demo.lock").read_text(encoding="utf-8")
    pinned = {name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    owners, left, seen = packages_distributions(), {"demo"}, set()
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    while left - seen:
        seen.add(stem := min(left - seen))
        nodes = list(ast.walk(ast.parse((ROOT / "examples" / f"{stem}.py").read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        for name in {name.partition(".")[0] for name in names} - packages - sys.stdlib_module_names:
            if (ROOT / "examples" / f"{name}.py").exists():
                left.add(name)
            else:
                assert {one.lower().replace("_", "-") for one in owners.get(name, [name])} & pinned, f"{stem}: {name}"
    assert {"demo", "story", "typed"} <= seen


def test_examples_are_listed_printed_and_copied(capsys, tmp_path):
    example.example()
    listed = capsys.readouterr().out
    for job in (ROOT / "examples").glob("*.yaml"):
        assert job.stem in listed
        example.example(job.stem)
        assert capsys.readouterr().out == job.read_text(encoding="utf-8")
    example.example("kz_corporate", tmp_path / "data")
    assert (tmp_path / "data" / "bank.csv").read_bytes() == (
        ROOT / "examples" / "kz_corporate" / "bank.csv"
    ).read_bytes()
    for words, why in (
        (("kz_corporate", tmp_path / "data"), "exists; name a new folder"),
        (("kz_corporate", None), "say where to copy it"),
        (("scorecard", tmp_path / "x"), "is a job, which is printed"),
        (("nothing", None), ", ".join(sorted(job.stem for job in (ROOT / "examples").glob("*.yaml"))) + ", default"),
    ):
        with pytest.raises(ConfigError, match=why):
            example.example(*words)


def environment_beside(folder: Path) -> Path:
    """Make an environment that finds the packages of this one, but not this checkout."""
    set_up.make_environment(folder / "venv", folder / "venv" / "bin" / "python")
    packages = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "venv" / "bin" / "python"


def copy_compiled_code(source: Path, target: Path) -> None:
    """Compile the kernels of these sources, unless that is done, and take the files to a copy of the sources."""
    subprocess.run([sys.executable, "-m", "veilscore.compile"], cwd=source.parent, check=True, capture_output=True)
    for path in source.rglob(f"*{kernels.SUFFIX}"):
        place = target / path.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(path, place)


@pytest.mark.slow
@pytest.mark.federation
@pytest.mark.timeout(300)
def test_a_wheel_outside_the_checkout_does_the_main_job_where_nothing_but_its_folder_can_be_written(built, tmp_path):
    require(shutil.which("bwrap"), "bubblewrap is not on this machine")
    python = environment_beside(tmp_path)
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", built[1]]
    subprocess.run(install, check=True, capture_output=True)
    packages = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    copy_compiled_code(ROOT / "veilscore", packages / "veilscore")
    work = tmp_path / "work"
    (work / "tmp").mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "PYTHONPATH", "VEILSCORE"))}
    environment |= {"HOME": "/nonexistent", "TMPDIR": str(work / "tmp"), "COLUMNS": "200"}
    inside = ["bwrap", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"]
    inside += ["--bind", str(work), str(work), "--chdir", str(work), str(python.with_name("veilscore"))]

    def command(*words: str) -> str:
        done = subprocess.run(
            [*inside, *words], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    command("example", "kz_corporate", "data")
    (work / "job.yaml").write_text(command("example", "scorecard_exact"), encoding="utf-8")
    command(
        "init",
        "trial",
        "--data",
        "data",
        "--exact",
        "--party",
        "bank:bank",
        "--party",
        "tax:holder",
        "--party",
        "registry:holder",
    )
    try:
        command("up", "trial")
        assert "done" in command("run", "job.yaml", "--federation", "trial")
        firm = (work / "data" / "bank.csv").read_text(encoding="utf-8").splitlines()[1].partition(",")[0]
        purpose = yaml.safe_load((work / "job.yaml").read_text(encoding="utf-8"))["purpose"]
        command("consent", "issue", "trial/consent-portal", "consent.json", "--firm", firm, "--purpose", purpose)
        command("consent", "import", "consent.json", "--federation", "trial")
        how = ("--model", "exact-scorecard", "--on-missing", "missing_code", "--federation", "trial")
        assert re.search(r"\d+ points \(step \d+ of 32\), band [A-E]", command("score", firm, *how))
        node = Path("/proc") / (work / "trial" / "bank" / "state" / "node.pid").read_text(encoding="ascii")
        assert str(python) in (node / "cmdline").read_text(encoding="utf-8")
        assert list((work / "trial").glob("*/cache")) == []  # all kernels of the job came compiled with the package
    finally:
        subprocess.run([*inside, "down", "trial"], env=environment, check=False, capture_output=True)
