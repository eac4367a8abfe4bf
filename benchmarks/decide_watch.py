"""A year of a watch on 2,000 firms, all parties in one process: seconds a month, outcomes told, and what is charged.

Twelve jobs on two holders' data, each month another record for most firms; every level is compared with the plain rule
(the highest so far), the sequences of a firm are counted, and the ledger is read: one contract year, charged once. That
a bank cannot claim a lower last level, nor start anew for nothing, is in `tests/test_decision_protocol.py` and
`tests/attacks/test_decision_watches.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from result import emit

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import finished_jobs
import trial_decisions
import trial_scoring

from veilscore.release.ledger import LEDGER, WATCH, ReleaseLedger

BOUND_S = 10.0
LEVELS, MONTHS = 2, 12


def shuffled(folder: Path, month: int) -> None:
    """Give each firm of the holders the record of another."""
    for party in ("tax", "registry"):
        path = folder / "data" / f"{party}.csv"
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        moved = [[line[0], *lines[(k * 7 + month) % len(lines)][1:]] for k, line in enumerate(lines)]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *moved])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--firms", type=int, default=2000)
    firms = parser.parse_args().firms
    with tempfile.TemporaryDirectory() as name:
        kept, folder = Path(name) / "kept", Path(name) / "homes"
        kept.mkdir()
        finished_jobs.keep_in(kept)
        whole = trial_scoring.simulate
        trial_scoring.simulate = lambda _n, seed, target: whole(firms, seed, target)
        trial_decisions.file_decisions(folder)
        trial_decisions.consent(folder, "watch")
        ask = partial(trial_decisions.decide_job, "alarm", "watch", watch=True)
        highest: dict[str, int] = {}
        years: dict[str, tuple[int, ...]] = {}
        wrong, last, took = 0, None, []
        for month in range(MONTHS):
            shuffled(folder, month)
            start = time.perf_counter()
            run = trial_decisions.run_decisions(folder, ask(name=f"month-{month}", **({"last": last} if last else {})))
            took.append(time.perf_counter() - start)
            last, now = run.job_id, trial_decisions.expected(folder, "alarm")
            for firm, row in trial_decisions.decided(folder, run).items():
                highest[firm] = max(highest.get(firm, 0), now[firm])
                years[firm] = (*years.get(firm, ()), int(row["step"]))
                wrong += int(row["step"]) != highest[firm]
        charged = {}
        for party in ("tax", "registry"):
            with contextlib.closing(ReleaseLedger(folder / party / LEDGER)) as ledger:
                of = [one for one in ledger.releases(0.0) if one.kind == WATCH]
            charged[party] = [int(one.firms.size) for one in of]
            bits = of[0].bits
    told, most = len(set(years.values())), math.comb(MONTHS + LEVELS, LEVELS)
    once = all(sum(later) == 0 for _, *later in charged.values())
    month_s = sum(took) / MONTHS
    print(f"{len(years):,} firms, {MONTHS} months, {LEVELS} levels")
    print(f"{'seconds a month':<28}{month_s:>10.1f}{BOUND_S:>10.1f}")
    print(f"{'sequences of levels':<28}{told:>10}{most:>10}")
    print(f"{'bits charged a firm':<28}{bits:>10.2f}{math.log2(most):>10.2f}")
    print(f"{'wrong levels':<28}{wrong:>10}{0:>10}")
    holds = month_s <= BOUND_S and told <= most and bits <= math.log2(most) + 1e-9 and once and not wrong
    emit("decide_watch", month_s, "s", BOUND_S, holds, firms=len(years), sequences=told, bits=bits, charged=charged)


if __name__ == "__main__":
    main()
