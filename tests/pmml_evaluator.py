"""Evaluate PMML by a program that is not ours: JPMML, on a Java runtime."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys

from conftest import require

# In a process of its own, since that package leaves sockets and pipes to the garbage collector.
PROGRAM = """
import json, sys
from jpmml_evaluator import make_evaluator
from jpmml_evaluator.py4j import Py4JBackend
evaluator = make_evaluator(sys.argv[1], backend=Py4JBackend()).verify()
found = [evaluator.evaluate(row) for row in json.load(sys.stdin)]
print(json.dumps([{name: value for name, value in row.items() if name} for row in found]))
Py4JBackend.destroyGateway()
"""


def evaluated(path, rows):
    """The results of rows of values by name; where Java or the evaluator is missing it skips, and fails in CI."""
    require(shutil.which("java"), "no Java runtime to evaluate PMML with (Debian: default-jre-headless)")
    both = all(importlib.util.find_spec(name) for name in ("jpmml_evaluator", "py4j"))
    require(both, "no PMML evaluator: pip install jpmml-evaluator py4j")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
