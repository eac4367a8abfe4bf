"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest
from finished_jobs import changed, keep_in
from processor_time import ProcessorTime

import veilscore.fabric.grpc_channel  # noqa: F401 - before a test imports gRPC, so that it speaks TLS 1.3 only
from veilscore.node import founding

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
LONGEST = {
    "test_workflow.py",
    "test_leakage.py",
    "test_documented.py",
    "test_promise.py",
    "test_online_service.py",
    "test_online_bands.py",
    "test_console_browser.py",
    "test_bank_year.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--processor-time", type=int, metavar="N", help="print the N files that use most processor time")


def pytest_configure(config: pytest.Config) -> None:
    # Workers, nodes and commands are processes of their own: without byte code each compiles 1,000 modules anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if config.getoption("processor_time"):
        config.pluginmanager.register(ProcessorTime(config.getoption("processor_time")))
    hypothesis.settings.register_profile("veilscore", deadline=None)  # a loaded machine is no fault of an example
    hypothesis.settings.load_profile("veilscore")
    if not hasattr(config, "cache"):
        raise pytest.UsageError("finished jobs are kept in pytest's cache folder: leave its plugin cacheprovider on")
    keep_in(config.cache.mkdir("finished-jobs"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker has one of them left when the other is done."""
    items.sort(key=lambda item: item.path.name not in LONGEST)  # stable: all else stays in its order


def require(condition: object, reason: str) -> None:
    """Skip with `reason` where something is missing; under CI a skip is a failure."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must not skip: {reason}")
    pytest.skip(reason)


def shared_data(name: str) -> Path:
    """Folder of one real data set (bank.csv, tax.csv, registry.csv)."""
    folder = SHARED / name
    require(folder.is_dir(), f"real data set {name!r} not found beside the checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def workers_share_no_ports():
    """Give each worker ports of its own: none takes those of a node that another worker stops and starts again."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    count = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    founding.PORTS = founding.PORTS[int(worker) :: int(count)]


@pytest.fixture(scope="session", autouse=True)
def finished_jobs_stay_as_they_are():
    """Fail the session if a test changed what it shares with others."""
    yield
    assert changed() == []


@pytest.fixture(autouse=True)
def umask_stays_as_it_was():
    """Give back what a test of the command or of a node took from others: tests after it are as if it had not run."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session", autouse=True)
def kernels_declare_their_types():
    """Fail the session if a test called a kernel with types that `python -m veilscore.compile` does not compile."""
    yield
    if "veilscore.kernels" in sys.modules:
        kernels = sys.modules["veilscore.kernels"].kernels
        assert {k.name: k.undeclared() for k in kernels if k.undeclared()} == {}
