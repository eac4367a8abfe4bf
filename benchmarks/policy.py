"""Time of lending policies: a decision through all that are shipped, 100,000 firms through admission, and the checks.

One core. A decision keeps its trace (the rows that fired), which takes about half of its time.
"""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

from result import emit

from party_bank.policy.check import cases, check
from party_bank.policy.graph import load_graph

GRAPHS = Path(__file__).resolve().parent.parent / "party_bank" / "policy" / "graphs"
ONE_MS, MANY_S, FIRMS = 2.0, 60.0, 100_000


def main() -> None:
    graphs = {path.stem: load_graph(path) for path in sorted(GRAPHS.glob("*.json"))}
    one_ms = {}
    for name, graph in graphs.items():
        asked = list(itertools.islice(itertools.cycle(cases(graph)), 2000))
        times = []
        for inputs in asked:
            start = time.perf_counter()
            graph.decide(inputs)
            times.append(1e3 * (time.perf_counter() - start))
        one_ms[name] = statistics.median(times)
        print(f"{name}: {one_ms[name]:.3f} ms a decision (p50), {sorted(times)[int(0.99 * len(times))]:.3f} ms (p99)")
    admission = graphs["admission"]
    asked = list(itertools.islice(itertools.cycle(cases(admission)), FIRMS))
    start = time.perf_counter()
    approved = sum(decision.outputs["outcome"] == "approve" for decision in admission.decide_all(asked))
    many_s = time.perf_counter() - start
    print(f"{FIRMS:,} firms through admission: {many_s:.1f} s, {approved:,} approved")
    checks_s = {}
    for name, graph in graphs.items():
        start = time.perf_counter()
        found = check(graph)
        checks_s[name] = time.perf_counter() - start
        print(f"check of {name}: {checks_s[name]:.2f} s, {len(found)} findings")
    holds = max(one_ms.values()) <= ONE_MS and many_s <= MANY_S
    emit("policy", max(one_ms.values()), "ms", ONE_MS, holds, many_s=many_s, many_bound_s=MANY_S, checks_s=checks_s)


if __name__ == "__main__":
    main()
