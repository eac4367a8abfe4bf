"""Bands and steps without scores: processor time of lead and bank for those of all rows, each on one core.

Shares of made-up totals are taken as given (`score_batch` measures what makes them); the base transfers are included.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from result import emit

from veilscore.models.loss import TURN
from veilscore.protocols.banding import BandCircuit, bank_bands, lead_bands
from veilscore.terms.bands import MOST_STEPS, Bands
from veilscore.wire.protocol import Protocol, Receive, Send, Session, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

BOUND_S = 5.0
STEPS = Bands.steps([30_000 + 50_000 * k // MOST_STEPS for k in range(1, MOST_STEPS)])  # of a coarse score


def drive(roles: dict[str, Protocol[Any]]) -> tuple[Any, dict[str, float], int]:
    """Run both sides by hand, messages in a queue: result of the bank, seconds by side, bytes sent."""
    spent, queues, n_bytes = dict.fromkeys(roles, 0.0), {name: [] for name in roles}, 0
    waiting: dict[str, Any] = dict.fromkeys(roles)
    results: dict[str, Any] = {}
    while len(results) < len(roles):
        for name, role in roles.items():
            while name not in results:
                if isinstance(waiting[name], Receive):
                    if not queues[name]:
                        break
                    waiting[name] = queues[name].pop(0)
                start = time.process_time()
                try:
                    command = role.send(waiting[name])
                except StopIteration as stop:
                    results[name] = stop.value
                    continue
                finally:
                    spent[name] += time.process_time() - start
                if isinstance(command, Send):
                    queues[command.to].append(command.message)
                    n_bytes += len(encode(command.message))
                waiting[name] = command if isinstance(command, Receive) else None
    return results["bank"], spent, n_bytes


def run(totals: NDArray[np.int64], bands: Bands) -> tuple[NDArray[np.int64], dict[str, float], int]:
    """Bands of all totals, from fresh shares."""
    share = np.random.default_rng(2).integers(0, TURN, totals.size)
    sessions = {p: Session("bench/score/1", p, "bank", ("tax",)) for p in ("bank", "tax")}
    other = ((totals - share) % TURN).astype(np.uint64)
    return drive(
        {
            "bank": bank_bands(sessions["bank"], share, bands, TURN),
            "tax": lead_bands(sessions["tax"], other, bands, TURN),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--bands", type=int, default=10)
    args = parser.parse_args()
    totals = np.random.default_rng(1).integers(30_000, 80_000, args.rows)
    bands = Bands.of({f"b{k}": 400.0 + 300.0 * k / args.bands for k in range(args.bands)}, 100)

    run(totals[:10], bands)  # compile first: the bound is on running nodes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    names = f"{args.bands} bands", f"{MOST_STEPS} steps"
    done = [run(totals, cut) for cut in (bands, STEPS)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    wrong = sum(int(np.count_nonzero(d[0] != cut.index(totals))) for d, cut in zip(done, (bands, STEPS), strict=True))
    gates = [BandCircuit(cut.limits, TURN).gates for cut in (bands, STEPS)]
    spent, n_bytes = [d[1] for d in done], [d[2] / args.rows for d in done]
    value = max(max(s.values()) for s in spent)
    print(f"{args.rows:,} rows, one core a side, processor time")
    print(f"  {'':<56}{names[0]:>12}{names[1]:>12}")
    for label, shown in (
        ("lead, s", [f"{s['tax']:.2f}" for s in spent]),
        ("bank, s", [f"{s['bank']:.2f}" for s in spent]),
        ("ANDs a row", gates),
        ("bytes a row, both ways", [f"{n:.0f}" for n in n_bytes]),
        ("rows that are wrong", [f"{wrong}"]),
        ("peak memory, both sides in one process, MB", [f"{peak / 1024:.0f}"]),
        ("of which before, MB", [f"{before / 1024:.0f}"]),
    ):
        print(f"  {label:<56}" + "".join(f"{one:>12}" for one in shown))
    emit(
        "score_bands",
        value,
        "s",
        BOUND_S,
        value <= BOUND_S and not wrong,
        rows=args.rows,
        bands=args.bands,
        gates=gates[0],
        lead_s=spent[0]["tax"],
        bank_s=spent[0]["bank"],
        bytes_a_row=n_bytes[0],
        steps_gates=gates[1],
        steps_lead_s=spent[1]["tax"],
        steps_bank_s=spent[1]["bank"],
        steps_bytes_a_row=n_bytes[1],
        peak_memory_mb=peak / 1024,
    )


if __name__ == "__main__":
    main()
