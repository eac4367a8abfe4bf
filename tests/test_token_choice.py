"""Of the tokens that a bank imported for a firm, that goes out which covers what is asked now."""

from __future__ import annotations

import json
import time

from consent_issuer import token

from veilscore.models.decided import FiledDecision, Pin
from veilscore.release.consent import claim_of
from veilscore.release.issuer import import_consent
from veilscore.release.token_choice import asks_of, set_aside, token_for, token_of
from veilscore.terms.decision import DecisionModel

DECIDE = {"tasks": ("decide",), "purpose": "proactive"}
MODEL = {
    "name": "limit",
    "purpose": "proactive",
    "steps": [1, 2, 3],
    "measures": {"a": {"model": "m", "cutoffs": [1, 2, 3]}},
}


def filed(home):
    """A decision of two bits at two holders, as the bank keeps it."""
    pin = Pin(
        model="m",
        model_sha256="0" * 64,
        limits=(1, 2, 3),
        written=True,
        maps=dict.fromkeys(("tax", "registry"), "1" * 64),
    )
    (home / "models" / "limit").mkdir(parents=True)
    FiledDecision(decision=DecisionModel.model_validate(MODEL), pins={"a": pin}).save(home / "models" / "limit")


def chosen(home, task="decide", purpose="", name="limit", firm="firm 1"):
    """The number under which the chosen token was imported."""
    now_s = time.time()
    found = token_for(
        home, (firm,), now_s, task, lambda: asks_of(home, "bank", name, purpose, now_s, task), purpose=purpose
    )
    return None if found is None else found[0].stem


def give(home, number, firm="firm 1", **scope):
    return import_consent(home, token(firm, **scope), "token", number)


def test_the_token_that_covers_purpose_holders_bits_and_term_is_chosen(tmp_path):
    filed(tmp_path)
    now_s = time.time()
    give(tmp_path, "1", **DECIDE, bits=1.0)
    give(tmp_path, "2", **DECIDE, holders=("tax",))
    give(tmp_path, "3", **DECIDE | {"purpose": "application"})
    give(tmp_path, "4", **DECIDE, bank="other")
    give(tmp_path, "5", **DECIDE, models=("another",))
    give(tmp_path, "6", **DECIDE, expires_s=now_s - 1, not_before_s=now_s - 2)
    give(tmp_path, "7", "firm 2", **DECIDE)
    give(tmp_path, "8")  # to scores
    assert chosen(tmp_path) in {"1", "2", "3", "4", "5"}  # none covers it: the holder's refusal says what is missing
    give(tmp_path, "9", **DECIDE, expires_s=now_s + 900)
    give(tmp_path, "99", **DECIDE, expires_s=now_s + 60)
    assert chosen(tmp_path) == "99"  # of two that cover it, that which ends first
    assert chosen(tmp_path, purpose="application") == "3"
    assert chosen(tmp_path, firm="firm 2") == "7"
    assert chosen(tmp_path, task="score_online", name="card") == "8"
    assert chosen(tmp_path, firm="firm 3") is None
    assert chosen(tmp_path, purpose="report") is None


def test_a_damaged_token_of_another_firm_is_no_hindrance(tmp_path):
    filed(tmp_path)
    for number, text in enumerate(("", "{}", json.dumps({"body": "x", "signature": ""}))):
        give(tmp_path, f"0{number}", "firm 2", **DECIDE).write_text(text)
    kept = give(tmp_path, "1", **DECIDE)
    assert chosen(tmp_path) == kept.stem
    assert claim_of(token("firm 1", **DECIDE)).scope.holders == ("tax", "registry", "court")


def test_a_request_and_its_repeats_take_one_token(tmp_path):
    """A repeat after the answer took another token of the firm away; one that waited for the same answer failed."""
    paths = [give(tmp_path, f"{k}", tasks=("score_online",), purpose="credit") for k in range(2)]

    def found(request_id):
        return token_of(tmp_path, "bank", "firm 1", "card", "credit", "score_online", request_id)

    first = found("bank:1")
    assert first is not None
    for _ in range(2):
        set_aside(*first, "bank:1")
    again = found("bank:1")
    assert again is not None
    assert again[1] == first[1]
    set_aside(*again, "bank:1")
    used = sorted((tmp_path / "consents" / "used").iterdir())
    assert [one.name for one in used] == [first[0].name]
    other = found("bank:2")
    assert other is not None
    assert {first[0], other[0]} == set(paths)
    set_aside(*other, "bank:2")
    assert found("bank:3") is None
    assert found("bank:2")[1] == other[1]
