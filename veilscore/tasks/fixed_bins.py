"""A holder's fixed bins of a data set: made once on the whole table, kept in its home, charged once to each bank."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Iterable
from pathlib import Path

from veilscore.data.fixed_bins import FixedBins
from veilscore.data.panel import drawn, numbered
from veilscore.data.table import Table
from veilscore.errors import StateError
from veilscore.files.private import private_folder
from veilscore.release.account import FILE, Account
from veilscore.tasks.context import StepContext
from veilscore.terms.node_config import NodeConfig
from veilscore.wire.protocol import Charge, Protocol
from veilscore.wire.randomness import secret_generator

FOLDER = "state/bins"
PUBLICATION = "publication/bins/1"  # stands for job, step and attempt in the account


def path_of(home: Path, dataset: str) -> Path:
    """Return where a node keeps the bins of one of its data sets."""
    return home / FOLDER / f"{dataset}.json"


def load(home: Path, dataset: str) -> FixedBins | None:
    """Return the version of bins in force, or None; SchemaError if it is damaged."""
    path = path_of(home, dataset)
    return FixedBins.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def make(home: Path, dataset: str, table: Table, *, renew: bool = False) -> FixedBins:
    """Fix the bins of a data set on its whole table, unless there are some and `renew` does not replace them.

    Two jobs may come here at once: the first to write wins, and both go on with its version.
    """
    path = path_of(home, dataset)
    if table.panel is not None:  # one date of each firm, drawn by the owner: a firm moves a count as one row does
        table = table.take(drawn(numbered(table.firms), 1, secret_generator()))
    made = FixedBins.make(table, dt.datetime.now(dt.UTC).date().isoformat())
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        private_folder(path.parent)
        part.write_text(made.to_json(), encoding="utf-8")
        part.chmod(0o600)
        if renew:
            part.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
        part.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}; check disk space, owner and mode") from error
    return FixedBins.from_json(path.read_text(encoding="utf-8"))


def charged(context: StepContext) -> Protocol[FixedBins]:
    """Holder: return the bins in force of the job's data set, charged the first time that the bank uses them."""
    dataset = context.job.datasets[context.session.party]
    fixed = load(context.home(), dataset) or make(context.home(), dataset, context.whole_table())
    charge = charge_of(fixed)
    if not context.account().knows(charge.opening):
        yield charge
    return fixed


def charge_of(fixed: FixedBins) -> Charge:
    """Return what a version of bins costs, once."""
    return Charge(f"bins {fixed.hash[:16]}", "all", fixed.mu2)


def charge_published(home: Path, node: NodeConfig, dataset: str, fixed: FixedBins, banks: Iterable[str]) -> None:
    """Charge the bins of a data set to banks that are about to learn them outside any job; RefusedError for one.

    A bank that was charged for this version, as by a job, is not charged again.
    """
    name, charge = node.datasets[dataset].account or dataset, charge_of(fixed)
    for bank in banks:
        account = Account(home / FILE, name, bank, node.policy.privacy)
        if not account.knows(charge.opening):
            account.spend(PUBLICATION, charge)
