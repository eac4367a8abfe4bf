"""A portal that issues consents in tests, and the policy of a holder that trusts it."""

from __future__ import annotations

import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from veilscore.release.consent import issue_list, issue_token
from veilscore.release.scope import Scope

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ISSUERS = {"portal": KEY.public_key().public_bytes_raw().hex()}
# what a test about something else may do: score the same firms again and again
OFTEN = {"repeats_per_model": 1000, "models_per_firm": 1000, "min_difference": 1, "min_batch": 1}
OFTEN |= {"bits_per_year": 1e6, "bits_per_score": 6}


def scope(**changes):
    now = time.time()
    decided = {"holders": ("tax", "registry", "court"), "bits": 7.0} if changes.get("tasks") == ("decide",) else {}
    if changes.get("purpose") == "watch":
        decided["contract"] = "contract-1"
    return Scope(**({"purpose": "credit", "not_before_s": now - 60, "expires_s": now + 3600} | decided | changes))


def token(firm, *, once=True, key=KEY, **changes):
    return issue_token(key, "portal", firm, scope(**changes), once=once)


def token_bytes(firm, **changes):
    return token(firm, **changes).to_message().SerializeToString()


def give_list(bank_home, firms, *, name="list", key=KEY, **changes):
    """Put a list into the bank's home, as `veilscore consent import` does."""
    folder = bank_home / "consents" / "lists"
    folder.mkdir(parents=True, exist_ok=True)
    signed = issue_list(key, "portal", list(firms), scope(**changes))
    (folder / f"{name}.json").write_text(signed.to_text())
    return signed
