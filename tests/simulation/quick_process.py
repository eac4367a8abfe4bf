"""One node with a test's patience as a process of its own: ``python quick_process.py HOME``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trial_federation import IMPATIENT, QUICK

from coordinator.service import Coordinator
from veilscore.fabric.process import serve
from veilscore.node.node import Node


def made(home: Path) -> Coordinator | Node:
    if Path(home).name == "coordinator":
        return Coordinator(home, limits=QUICK, patience=IMPATIENT)
    return Node(home, limits=QUICK)


if __name__ == "__main__":
    serve(sys.argv[1], made)
