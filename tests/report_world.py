"""A bank and four holders with homes, keys, consents and variables, for credit reports; no node runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from party_bank.assistants.credit_report import ReportAssistant
from party_bank.assistants.sections import SectionShelf
from party_bank.book import Book
from party_bank.settings import load_settings
from veilscore.data.simulate import firm_ids
from veilscore.features.build import FIRM_COLUMN
from veilscore.features.catalogue import find_catalogue
from veilscore.features.parquet import ParquetFile
from veilscore.node.founding import PORTAL, found_federation
from veilscore.release.issuer import Issuer, import_consent
from veilscore.release.scope import REPORT, SECTION, Scope
from veilscore.reports.section_desk import SectionDesk
from veilscore.reports.section_fields import section_fields
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config

HOLDERS = ("tax", "registry", "court", "bureau")
BANK_YAML = """
dataset: main
products: {flow: {ladder: [50000, 100000, 200000, 400000], months: 12, rate_bp: 435, cap: 100000000}}
decisions: {application: flow-limit, renewal: flow-limit}
"""
YEAR_S = 365 * 86400.0
BANK_VARIABLES = (
    "balances.balance.mean.365d", "balances.balance.std.365d", "bookings.amount.sum.365d[direction=in]",
    "bookings.amount.sum.365d[direction=out]", "net_inflow.365d", "cover.90d", "balances.overdraft_days.max.365d",
    "bookings.distinct(counterparty).365d[direction=in]", "repayments.count.365d[timely=late]",
    "bookings.amount.top_share(counterparty).365d[direction=in]", "repayments.days_late.max.365d",
)  # fmt: skip


@dataclass
class ReportWorld:
    """Homes below `folder`, and the ids of the firms."""

    folder: Path
    firms: list[str]

    def home(self, party):
        return self.folder / "trial" / party

    @property
    def issuer(self):
        return Issuer.load(self.folder / "trial" / PORTAL)

    def desk(self, holder, clock=time.time):
        node = load_node_config(self.home(holder))
        identity, federation = load_membership(self.home(holder), node)
        return SectionDesk(self.home(holder), node, identity, federation, clock=clock)

    def shelf(self, clock=time.time):
        node = load_node_config(self.home("bank"))
        _, federation = load_membership(self.home("bank"), node)
        return SectionShelf(self.home("bank"), node, federation, clock)

    def assistant(self, book, clock=time.time):
        return ReportAssistant(book, load_settings(self.home("bank")), self.shelf(clock))

    def book(self, clock=time.time):
        return Book.of_home(self.home("bank"), load_settings(self.home("bank")), clock=clock)

    def consent(self, firms, *, fields=None, now_s=None, bank="bank", holders=HOLDERS, days=90, once=False):
        """Let the portal sign a consent to sections, take it in at the bank, and return it."""
        now_s = time.time() if now_s is None else now_s
        fields = tuple(section_fields().fields if fields is None else fields)
        scope = Scope(
            REPORT, (SECTION,), bank, (), now_s - 1, now_s + days * 86400, holders=tuple(holders), fields=fields
        )
        signed = self.issuer.list(firms, scope) if len(firms) > 1 else self.issuer.token(firms[0], scope, once=once)
        kind = "list" if len(firms) > 1 else "token"
        import_consent(self.home("bank"), signed, kind, self.id_of(signed))
        return signed

    @staticmethod
    def id_of(signed):
        from veilscore.release.consent import claim_of

        return claim_of(signed).id

    def sections(self, signed, firms, clock=time.time):
        """Let every holder write its sections and take them in at the bank."""
        shelf = self.shelf(clock)
        for holder in HOLDERS:
            for one in self.desk(holder, clock).write(signed, firms, "main"):
                shelf.take(one.write(self.folder / f"{holder}-{one.section.sha256[:16]}.json"))


def make_world(folder: Path, firms: list[str]) -> ReportWorld:
    """Found the federation; each party has data set main at features/main.parquet, which the caller writes."""
    found_federation(folder / "trial", {"bank": "bank", **dict.fromkeys(HOLDERS, "holder")})
    for party in ("bank", *HOLDERS):
        path = folder / "trial" / party / "node.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        features = {"catalogue": party, "events": "events"}
        content["datasets"] = {"main": {"path": "features/main.parquet", "id_column": "uscc", "features": features}}
        content.setdefault("policy", {})["report_fields"] = ["all"]
        issuer = Issuer.load(folder / "trial" / PORTAL)
        content["policy"]["consent_issuers"] = {issuer.name: issuer.public_key}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        (folder / "trial" / party / "features").mkdir(mode=0o700)
    (folder / "trial" / "bank" / "bank.yaml").write_text(BANK_YAML, encoding="utf-8")
    return ReportWorld(folder, firms)


def drawn_features(world: ReportWorld, parties=("bank", *HOLDERS), as_of: str = "2026-09-30", seed: int = 1) -> None:
    """Write variables of the kinds that sections need, drawn without any life behind them."""
    rng = np.random.default_rng(seed)
    n = len(world.firms)
    for party in parties:
        columns = {}
        for field in section_fields().of_catalogue(party).values():
            for name in field.variables:
                if field.levels:
                    columns[name] = rng.choice(np.array(field.levels, dtype=object), n)
                else:
                    top = (field.edges[-1] if field.edges else 1.0) * field.per
                    columns[name] = (
                        rng.integers(0, 3, n).astype(float) if field.flag else rng.uniform(-0.2, 1.5, n) * top
                    )
        if party == "bank":
            columns = {
                name: rng.uniform(0, 1, n) * (1 if "share" in name or "cover" in name else 1e5)
                for name in BANK_VARIABLES
            }
        about = {"veilscore.catalogue": find_catalogue(party).hash, "veilscore.as_of": as_of}
        with (world.home(party) / "features" / "main.parquet").open("wb") as file, ParquetFile(file, about) as out:
            out.add(FIRM_COLUMN, np.array(world.firms, dtype=object))
            for name, values in columns.items():
                out.add(name, values)


def quick_world(folder: Path, n: int = 3) -> ReportWorld:
    """Return a world of a few firms with drawn variables."""
    world = make_world(folder, [str(one) for one in firm_ids(np.random.default_rng(5), n)])
    drawn_features(world)
    return world
