"""Compiled code: its key, where it is kept, and that no damage or missing right fails what runs it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import ROOT, require

from veilscore import compile as compilation
from veilscore import kernels

if TYPE_CHECKING:
    from pathlib import Path

PROBE = """
import numpy as np
from {other} import FACTOR, twice
from veilscore.kernels import inlined, kernel

@kernel("(i8[::1],)")
def total(values):
    out = 0
    for value in values:
        out += twice(value) * FACTOR
    return out
"""
OTHER = """
from veilscore.kernels import inlined

FACTOR = {factor}

@inlined
def twice(value):
    return {body}
"""
PACK = """
import numpy as np
from veilscore.lattice.ring import pack
print(pack(np.arange(8, dtype=np.uint32).reshape(1, 8), (11,)).hex())
"""
READ_ONLY = ("--ro-bind", "/dev/shm", "/dev/shm")  # noqa: S108
COMMAND = "from veilscore.cli import main; main()"
POINT = "from veilscore.crypto import group; group.raise_generator(group.Scalar())"
PACKED = bytes(range(8)).hex()


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """Make and load a module with a kernel that calls a function and uses a constant of another module."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded, before = [], len(kernels.kernels)

    def make(name: str, *, body: str = "value + value", factor: int = 3):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "probe_other.py").write_text(OTHER.format(body=body, factor=factor), encoding="utf-8")
        (folder / "probe.py").write_text(PROBE.format(other="probe_other"), encoding="utf-8")
        loaded.append(load(folder / "probe_other.py"))
        return load(folder / "probe.py")

    yield make
    del kernels.kernels[before:]
    for name in ("probe", "probe_other"):
        sys.modules.pop(name, None)


def names(module) -> set[str]:
    return next(k for k in reversed(kernels.kernels) if k.dispatcher is module.total).file_names()


def test_the_key_covers_functions_and_constants_of_other_files(probe):
    first = names(probe("a"))
    assert names(probe("b")) == first  # a copy elsewhere is the same code
    assert names(probe("c", body="2 * value")) != first
    assert names(probe("d", factor=4)) != first


def test_compiled_code_is_kept_and_a_damaged_file_is_compiled_again(probe, tmp_path):
    values = np.arange(4)
    assert probe("a").total(values) == 36
    (kept,) = tmp_path.glob(f"a/__pycache__/*{kernels.SUFFIX}")
    whole = kept.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), b"\0" * len(whole)):
        kept.write_bytes(damaged)
        again = load(tmp_path / "a" / "probe.py")
        assert again.total(values) == 36
        assert len(kept.read_bytes()) > 100
        assert not again.total.stats.cache_hits
    assert load(tmp_path / "a" / "probe.py").total(values) == 36


def test_a_copied_file_is_found(probe, tmp_path):
    probe("a").total(np.arange(4))
    second = probe("b")
    shutil.copytree(tmp_path / "a" / "__pycache__", tmp_path / "b" / "__pycache__", dirs_exist_ok=True)
    assert second.total(np.arange(4)) == 36
    assert second.total.stats.cache_hits


def test_code_from_a_folder_that_others_can_write_is_not_run(probe, tmp_path):
    module = probe("a")
    module.total(np.arange(4))
    folder = tmp_path / "a" / "__pycache__"
    folder.chmod(0o777)
    again = load(tmp_path / "a" / "probe.py")
    assert again.total(np.arange(4)) == 36
    assert not again.total.stats.cache_hits
    folder.chmod(0o755)


def test_all_modules_with_kernels_are_found():
    for name in compilation.modules():
        importlib.import_module(name)
    found = {k.dispatcher.py_func.__module__ for k in kernels.kernels}
    assert {name for name in found if name.startswith("veilscore.")} == set(compilation.modules())


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    """A copy of the sources with nothing compiled."""
    require(shutil.which("bwrap"), "bubblewrap is not on this machine")
    folder = tmp_path_factory.mktemp("installation")
    ignored = shutil.ignore_patterns("__pycache__", "examples")
    shutil.copytree(ROOT / "veilscore", folder / "veilscore", ignore=ignored)
    return folder


def run_read_only(installation: Path, temporary: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python where nothing can be written but one folder, by a user without a home."""
    writable = () if temporary is None else ("--bind", str(temporary), str(temporary))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "TMP", "TEMP"))}
    environment |= {"HOME": "/nonexistent", "PYTHONPATH": str(installation)}
    environment |= {} if temporary is None else {"TMPDIR": str(temporary)}
    command = ["bwrap", "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", *READ_ONLY]
    command += ["--proc", "/proc", *writable, "--chdir", "/", sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_read_only_installation_without_a_home_keeps_its_code_in_a_temporary_folder(installation, tmp_path):
    version = run_read_only(installation, tmp_path, "-c", COMMAND, "--version")
    assert (version.returncode, version.stderr) == (0, "")
    first = run_read_only(installation, tmp_path, "-c", PACK)
    assert (first.returncode, first.stdout.strip()) == (0, PACKED)
    (warning,) = first.stderr.splitlines()
    place = tmp_path / f"veilscore-{os.geteuid()}"
    assert str(place) in warning
    assert "python -m veilscore.compile" in warning
    assert place.stat().st_mode & 0o777 == 0o700
    second = run_read_only(installation, tmp_path, "-c", PACK)
    assert (second.returncode, second.stdout.strip(), second.stderr) == (0, PACKED, "")


def test_nothing_writable_at_all_costs_time_alone(installation):
    done = run_read_only(installation, None, "-c", PACK)
    assert (done.returncode, done.stdout.strip()) == (0, PACKED)
    (warning,) = done.stderr.splitlines()
    assert "every process compiles it again" in warning
    done = run_read_only(installation, None, "-c", POINT)
    assert done.stderr.splitlines()[-1].startswith("veilscore.errors.StateError: libsodium cannot be loaded from")


def test_a_node_keeps_its_code_in_its_home(installation, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = f"from pathlib import Path\nfrom veilscore import kernels\nkernels.keep_in(Path({str(home / 'cache')!r}))"
    done = run_read_only(installation, home, "-c", code + PACK)
    assert (done.returncode, done.stdout.strip()) == (0, PACKED)
    assert str(home / "cache") in done.stderr
    assert [p.name.partition("-")[0] for p in home.rglob(f"*{kernels.SUFFIX}")] == ["ring._pack"]


def test_two_threads_may_be_the_first_to_call_a_kernel_strictly():
    signature, began = "i8(i8)", threading.Barrier(2)
    made = kernels.Kernel(_SlowDispatcher(), (signature,))

    def call():
        began.wait()
        return made.called_strictly(1)

    with ThreadPoolExecutor(2) as pool:
        assert [each.result() for each in [pool.submit(call) for _ in range(2)]] == [2, 2]


class _SlowDispatcher:
    """Compiles slowly, and refuses to once it was told not to, as numba's does."""

    def __init__(self):
        self.closed, self.py_func = False, call_nothing

    def compile(self, _signature):
        if self.closed:
            raise RuntimeError("compilation disabled")
        time.sleep(0.05)
        if self.closed:
            raise RuntimeError("compilation disabled")

    def disable_compile(self):
        self.closed = True

    def __call__(self, value):
        return value + 1


def call_nothing(value):
    return value
