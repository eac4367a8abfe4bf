"""One node with the toy workflow as a process of its own: ``python toy_process.py HOME``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trial_federation import ToyWorkflow

from coordinator.service import Coordinator
from veilscore.fabric.process import serve
from veilscore.node.node import Node

if __name__ == "__main__":
    kind = Coordinator if Path(sys.argv[1]).name == "coordinator" else Node
    serve(sys.argv[1], lambda home: kind(home, workflow=ToyWorkflow()))
