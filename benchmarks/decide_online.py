"""Time of one online decision, asked over TLS: bank, two holders and coordinator as four processes on loopback.

The decision has four measures (boosted trees and a scorecard with both holders, a model written by hand at both, the
bank's own bound) and knock-outs at all three. Requests come one after the other with a pause between them and are
answered from spares and transfers that the nodes made while idle. Every step is compared with the plain decision. Then
requests without pause after the spares are used up, where everything is encrypted while the caller waits.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from result import emit
from score_online import connected, processes

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import finished_jobs
from consent_issuer import token_bytes
from trial_decisions import expected, file_decisions
from trial_scoring import copy_of

from veilscore.fabric.fabric import Fabric
from veilscore.v1 import control_pb2 as pb

BOUND_MS = 30.0


async def ask(fabric: Fabric, firm: str, number: str) -> tuple[float, pb.ScoreResponse]:
    """One request with a consent of its own; milliseconds and response."""
    request = pb.ScoreRequest(
        request_id=number,
        firm_id=firm,
        model="limit",
        output="decision",
        timeout_s=20,
        on_missing="missing_code",
        consent=token_bytes(firm, purpose="proactive", tasks=("decide",)),
    )
    start = time.perf_counter()
    response = await fabric.call("bank", "Score", request, pb.ScoreResponse, timeout_s=30)
    return 1e3 * (time.perf_counter() - start), response


async def measure(
    folder: Path, steps: dict[str, int], repeats: int, pause_s: float, stock_s: float, at_once: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Milliseconds of each request with pauses, and without spares; and how many steps were wrong."""
    firms, times, wrong = iter(steps), {"paced": [], "at once": []}, 0
    async with connected(folder) as fabric:
        for i in range(5):
            await ask(fabric, next(firms), f"warm-{i}")
        await asyncio.sleep(stock_s)
        for name, n_requests in (("paced", repeats), ("at once", at_once)):
            for i in range(n_requests):
                firm = next(firms)  # a firm decided on before needs nothing opened: never twice
                took, response = await ask(fabric, firm, f"{name}-{i}")
                wrong += response.status not in {"scored", "fallback"} or response.step != steps[firm]
                times[name].append(took)
                await asyncio.sleep(pause_s if name == "paced" else 0)
    return np.array(times["paced"]), np.array(times["at once"][-40:]), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--pause-ms", type=float, default=30)
    parser.add_argument("--stock-s", type=float, default=45, help="idle time in which spares are made")
    parser.add_argument("--at-once", type=int, default=300, help="requests without pause, more than there are spares")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        kept, homes = Path(name) / "kept", Path(name) / "homes"
        kept.mkdir()
        finished_jobs.keep_in(kept)
        copy_of(finished_jobs.finished(file_decisions), homes)
        steps = expected(homes, "limit")
        with processes(homes):
            paced, bare, wrong = asyncio.run(
                measure(
                    homes,
                    steps,
                    arguments.repeats,
                    arguments.pause_ms / 1e3,
                    arguments.stock_s,
                    arguments.at_once,
                )
            )
    p50, p95 = np.percentile(paced, [50, 95])
    print(f"{'requests':<40}{len(paced):>12}")
    print(f"{f'p50, {arguments.pause_ms:g} ms between requests':<40}{p50:>12.1f} ms")
    print(f"{'p95':<40}{p95:>12.1f} ms")
    print(f"{'p50, no spares left, no pause':<40}{np.median(bare):>12.1f} ms")
    print(f"{'wrong steps':<40}{wrong:>12}")
    emit(
        "decide_online",
        p50,
        "ms",
        BOUND_MS,
        wrong == 0 and p50 <= BOUND_MS,
        p95_ms=p95,
        p50_without_spares_ms=np.median(bare),
        requests=len(paced),
        wrong=wrong,
    )


if __name__ == "__main__":
    main()
