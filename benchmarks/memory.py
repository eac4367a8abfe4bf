"""Peak memory of each node and bytes of each step: 150k firms x 20 columns, four real processes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trial
from result import emit

from veilscore.data.simulate import simulate_to_folder

ROOT = Path(__file__).resolve().parent.parent
N_FIRMS = 150_000
MAX_GB = 1.5


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        simulate_to_folder(data, N_FIRMS, 1, "parquet")
        with trial.federation(Path(temporary) / "f", data) as folder:
            info = trial.run_job(folder, ROOT / "examples" / "scorecard_exact.yaml")
    peaks: dict[str, float] = {}
    for step in info.steps:
        for party, done in sorted(step.party_done.items()):
            peaks[party] = max(peaks.get(party, 0.0), done.peak_memory_bytes / 1e9)
            print(f"{step.step:<10} {party:<12} {done.seconds:8.2f} s  sent {done.bytes_sent / 1e6:9.2f} MB")
    steps = {
        step.step: {"s": round(step.seconds, 2), "sent_mb": round(trial.bytes_sent(info, (step.step,)) / 1e6, 1)}
        for step in info.steps
    }
    worst = max(peaks.values())
    emit(
        "memory",
        round(worst, 3),
        "GB",
        MAX_GB,
        worst <= MAX_GB,
        peak_gb={p: round(v, 3) for p, v in peaks.items()},
        **steps,
    )


if __name__ == "__main__":
    main()
