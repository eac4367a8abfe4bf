"""What `veilscore job plan` says that steps send, against what they sent."""

from collections import Counter

import numpy as np
import pytest
from local_jobs import firms, job, run_job

from veilscore.tasks import scorecard
from veilscore.tasks.table import estimate, steps_of
from veilscore.tasks.task import Sizes

N = 6000
PRIVATE = {"disclosure": "private", "holdout_scores": False}


def sent(run):
    """Bytes that all parties sent in each step."""
    found = Counter()
    for party, transcript in run.transcripts.items():
        for entry in transcript.entries:
            if entry.sender == party:
                found[entry.session.split("/")[1]] += entry.size_bytes
    return found


@pytest.mark.parametrize("parameters", [PRIVATE, {"disclosure": "exact"}])
def test_bytes_of_a_scorecard_are_those_that_were_sent(tmp_path, monkeypatch, parameters):
    run = run_job(tmp_path, firms(N, seed=3), keep=True, **parameters)
    store, found = run.stores["bank"], sent(run)
    rows, p = store.load_arrays("rows"), run.job.parameters
    n_codes = {one["party"]: np.array(one["n_codes"]) for one in store.load_json("counts")}
    of_holders = np.concatenate([n_codes[holder] for holder in run.job.holders])
    if not p.private:
        openings = [e for e in run.transcripts["tax"].entries if e.kind == "TrainBankTables"]
        terms = openings[0].size_bytes / scorecard.PRODUCT_BLOCK_BYTES  # of a block of so few rows
        monkeypatch.setattr(scorecard, "USUAL_STEPS", len(openings))
        monkeypatch.setattr(scorecard, "USUAL_TERMS", int(terms) / 2)
    train = int(rows["train"].sum())
    looked_up = sum(e.kind == "ResidualBankLookup" for e in run.transcripts["bank"].entries)
    for step, columns in (
        ("bin", of_holders.size),
        ("train", looked_up or of_holders.size),
    ):  # without those of no effect
        sizes = Sizes(N, (N, N), train, N - train, columns / 2, float(of_holders.mean()))
        assert steps_of(p)[step].cost(p, sizes).bytes == pytest.approx(found[step], rel=0.15), step


def test_columns_that_are_known_count():
    few, usual = (estimate(job(**PRIVATE), {"bank": N}, known) for known in ({"tax": 3, "registry": 3}, None))
    assert few["bin"].bytes < usual["bin"].bytes / 3
    assert few["train"].bytes < usual["train"].bytes / 2
