"""Processor seconds of the tests, of processes they started too, by file: ``pytest --processor-time 20``.

Wall time says little on a machine that others use; processor seconds tell what a test costs there as well.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

NAME = "processor_s"


def used_s() -> float:
    """Return what this process and its children that have ended used so far."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class ProcessorTime:
    """Measures where tests run, and adds up where they are reported, which is another process under xdist.

    shown : number of files to print.
    """

    def __init__(self, shown: int) -> None:
        self._shown = shown
        self._last_s = used_s()
        self._by_file: Counter[str] = Counter()
        self._workers_s = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Note what was used since the last report: set-up, test or tear-down."""
        report = yield
        now_s = used_s()
        report.user_properties.append((NAME, now_s - self._last_s))
        self._last_s = now_s
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add to the file's."""
        self._by_file[report.nodeid.partition("::")[0]] += dict(report.user_properties).get(NAME, 0.0)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand the whole, collection included, to the process that reports."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[NAME] = used_s()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add what a worker used."""
        self._workers_s += getattr(node, "workeroutput", {}).get(NAME, 0.0)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the files that used most, and the whole."""
        terminalreporter.section("processor seconds")
        for name, seconds in self._by_file.most_common(self._shown):
            terminalreporter.write_line(f"{seconds:8.1f}  {name}")
        in_all_s = self._workers_s + time.process_time() if self._workers_s else used_s()
        terminalreporter.write_line(f"{in_all_s:8.1f}  in all, with collection")
