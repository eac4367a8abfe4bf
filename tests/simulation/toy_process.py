"""One node that knows the toy task as a process of its own: ``python toy_process.py HOME``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import toy_task  # noqa: F401 - jobs of the tests are of this task

from coordinator.service import Coordinator
from veilscore.fabric.process import serve
from veilscore.node.node import Node

if __name__ == "__main__":
    serve(sys.argv[1], Coordinator if Path(sys.argv[1]).name == "coordinator" else Node)
