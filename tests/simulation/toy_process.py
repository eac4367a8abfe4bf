"""One node with the toy workflow as a process of its own: ``python toy_process.py HOME``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trial_federation import ToyWorkflow

from veilscore.node.serve import serve

if __name__ == "__main__":
    serve(sys.argv[1], ToyWorkflow())
