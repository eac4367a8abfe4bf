"""A local federation whose nodes are processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from trial_federation import PARTIES, commanding, until

from veilscore.data.simulate import simulate_to_folder
from veilscore.errors import PeerError
from veilscore.fabric.process import running_pid
from veilscore.node import processes
from veilscore.node.founding import DataFiles, found_federation
from veilscore.v1 import control_pb2

JOB = {
    "name": "small",
    "purpose": "credit",
    "task": "train_scorecard",
    "bank": "bank",
    "holders": ["tax", "registry"],
    "datasets": {"bank": "main", "tax": "main", "registry": "main"},
    "parameters": {"max_bin": 5, "disclosure": "exact"},
}


TOY = Path(__file__).with_name("toy_process.py")
NAMES = ("coordinator", "bank", "tax", "registry")


class Federation:
    """Processes of one local federation; `start` and `kill` them by name."""

    def __init__(self, folder: Path, *, toy: bool):
        self.folder = folder
        self._toy = toy
        self._processes: list[subprocess.Popen[bytes]] = []

    async def start(self, *names: str) -> None:
        for name in names:
            home = self.folder / name
            self._processes.append(_toy_process(home) if self._toy else processes.spawn(home))
        for name in names:
            await until(lambda name=name: running_pid(self.folder / name))
            async with commanding(self.folder / name) as command:
                for _ in range(100):
                    with contextlib.suppress(PeerError):
                        await command.call(name, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=2)
                        break
                    await asyncio.sleep(0.1)

    async def kill(self, name: str) -> None:
        os.kill(running_pid(self.folder / name), signal.SIGKILL)
        await self.gone(name)

    async def gone(self, name: str) -> None:
        await until(lambda: running_pid(self.folder / name) is None)

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)


def _toy_process(home: Path) -> subprocess.Popen[bytes]:
    with (home / "console.log").open("wb") as out:
        return subprocess.Popen([sys.executable, str(TOY), str(home)], stdout=out, stderr=out)


@contextlib.asynccontextmanager
async def federation(folder: Path, *names: str):
    """Start these nodes (all by default); whatever runs at the end is killed."""
    made = Federation(folder, toy=False)
    try:
        await made.start(*(names or NAMES))
        yield made
    finally:
        made.end()


def make_real_homes(folder: Path) -> None:
    """Homes with simulated data of 2500 firms, for the real workflow."""
    simulate_to_folder(folder / "data", 2500, 3)
    found_federation(folder, PARTIES, data=DataFiles(folder / "data"), exact=True)
