"""A trial federation in which a bank lends: a decision for each purpose, its settings, its firms in the book."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml
from consent_issuer import give_list, token
from finished_jobs import finished
from trial_decisions import LADDER, file_decisions, head
from trial_scoring import copy_of, known_to_all, run_locally, set_policy

from party_bank.firms import import_consents, put_firms
from party_bank.settings import BankSettings
from veilscore.models.decided import load_decision
from veilscore.release.consent import claim_of
from veilscore.release.issuer import import_consent

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from party_bank.book import Book
    from veilscore.terms.decision import Purpose

SETTINGS = {
    "products": {"flow": {"ladder": LADDER, "months": 12, "rate_bp": 435}},
    "dataset": "main",
    "decisions": {"proactive": "limit", "application": "admit", "renewal": "renew"},
}
BATCH = f"""{head("proactive")}
name: campaign
task: decide
parameters: {{decision: limit, min_batch: 1}}
""".replace("bank: main", "bank: batch")


def file_lending(folder: Path) -> None:
    """Make homes with decisions "limit" (proactive), "admit" (application) and "renew" (renewal), all of one form."""
    copy_of(finished(file_decisions), folder)
    limit = load_decision(folder / "bank", "limit").decision.model_dump(mode="json")
    for name, purpose in (("admit", "application"), ("renew", "renewal")):
        decision = {**limit, "name": name, "purpose": purpose}
        task = f"name: {name}\ntask: file_decision\nparameters: {json.dumps({'decision': decision})}\n"
        run_locally(folder, head(purpose) + task)
    for holder in ("tax", "registry"):
        set_policy(folder, holder, min_overlap=1)
    (folder / "bank" / "bank.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    path = folder / "bank" / "node.yaml"
    node = yaml.safe_load(path.read_text())
    node["datasets"]["batch"] = {"path": "batches/firms.csv", "id_column": "uscc"}
    path.write_text(yaml.safe_dump(node))


def lending_homes(target: Path) -> Path:
    """Copy of these homes; the job of a campaign lies beside them."""
    copy_of(finished(file_lending), target)
    (target / "campaign.yaml").write_text(BATCH, encoding="utf-8")
    return target


def lending_settings() -> BankSettings:
    return BankSettings.model_validate(SETTINGS)


def add_known_firms(homes: Path, book: Book, n: int) -> list[str]:
    """Put the first n firms that every party knows into the book."""
    firms = known_to_all(homes)[:n]
    about = {"industry": "trade", "region": "north", "manager": "li"}
    put_firms(book, [{"firm": firm, "name": f"Firm {k}", **about} for k, firm in enumerate(firms)], "test")
    return firms


def give_tokens(homes: Path, firms: Iterable[str], purpose: Purpose, **changes: Any) -> dict[str, str]:
    """Import a token for one request of each firm, as `veilscore consent import` does; ids of them by firm."""
    ids = {}
    for firm in firms:
        signed = token(firm, purpose=purpose, tasks=("decide",), **changes)
        ids[firm] = claim_of(signed).id
        import_consent(homes / "bank", signed, "token", ids[firm])
    return ids


def consent_to_offers(homes: Path, firms: Iterable[str], **changes: Any) -> None:
    give_list(homes / "bank", firms, name="decide-proactive", purpose="proactive", tasks=("decide",), **changes)


def note_all(homes: Path, book: Book) -> None:
    """Note in the book what was imported."""
    import_consents(book, homes / "bank", "test")
