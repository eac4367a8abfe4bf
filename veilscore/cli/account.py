"""`veilscore account`: what each bank was told of each data set and of single firms, counted."""

import contextlib
import datetime as dt
import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import StateError
from veilscore.release.account import FILE, YEAR_S, Account, accounts
from veilscore.release.batch import WITHHELD
from veilscore.release.ledger import DAY_S, EXACT_BITS, LEDGER, Release, ReleaseLedger, firms_by_bits
from veilscore.release.pseudonyms import firm_digest
from veilscore.release.token_choice import spellings
from veilscore.terms.node_config import load_node_config
from veilscore.terms.privacy import best_guess, total
from veilscore.terms.rules import ReleaseRules

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """What each bank was told of each data set, as mu of Gaussian differential privacy."""


@app.command("show", epilog="Example: veilscore account show --home /srv/tax")
def show(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """Show every account of a holder: what was opened, what it adds up to, and what a bank could guess by it."""
    own, out = find_home(home, federation, party), console()
    found = accounts(own / FILE, load_node_config(own).policy.privacy)
    if not found:
        out.print("Nothing was opened to any bank yet.")
    for account in found:
        _show(out, account)
    if (own / LEDGER).is_file():
        _show_bits(out, own, load_node_config(own).policy.release)


@app.command("firm", epilog="Example: veilscore account firm 91310000MA1K0LCX8Q --home /srv/tax")
def firm(
    firm: Annotated[str, typer.Argument(help="The firm's id, as it is written in the data set.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Show what was released of one firm, to whom, and in which jobs it was scored as unknown although it is known.

    Logs and ledgers hold no id of a firm: the command makes the keyed digests that stand there for this one.
    """
    own, out = find_home(home, federation, party), console()
    written = spellings(firm)
    digests = {firm_digest(own, one): one for one in written}
    out.print(f"In the logs of this node the firm is {' or '.join(digests)}.")
    rows = [
        (_day(r.at_s), r.bank, r.kind, r.reference.partition("/")[2], r.model[:16], _bits(r))
        for r in _released(own, written)
    ]
    if rows:
        out.print(table("Released", ("day", "bank", "kind", "job or request", "model", "bits"), rows))
    else:
        out.print("Nothing was released of it.")
    held_back = _withheld(own, digests)
    if held_back:
        out.print(table("Scored as unknown", ("job", "why"), held_back))


def _released(home: Path, written: tuple[str, ...]) -> list[Release]:
    if not (home / LEDGER).is_file():
        return []
    with contextlib.closing(ReleaseLedger(home / LEDGER)) as ledger:
        found = {r.reference: r for one in ledger.firms(written).tolist() for r in ledger.of_firm(one, 0.0)}
    return sorted(found.values(), key=lambda r: r.at_s)


def _withheld(home: Path, digests: dict[str, str]) -> list[tuple[str, str]]:
    found = []
    for path in sorted(home.glob(f"jobs/*/{WITHHELD}.json")):
        try:
            by_reason = json.loads(path.read_text(encoding="utf-8"))
            found += [
                (path.parent.name, why) for why, firms in by_reason.items() if not digests.keys().isdisjoint(firms)
            ]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise StateError(f"{path} cannot be read: restore it from backup, or move it away") from error
    return found


def _show(out: Console, account: Account) -> None:
    spent, held, since = account.spent(), account.held(), account.voided_since()
    lines = account.lines()
    jobs = {line.job_id: line.at_s for line in lines}
    by_job = {job: total(line.charge for line in lines if line.job_id == job) for job in jobs}
    opened = {job: ", ".join(dict.fromkeys(x.charge.opening for x in lines if x.job_id == job)) for job in jobs}
    rows = [(_day(at_s), job, opened[job], _mu(by_job[job])) for job, at_s in jobs.items()]
    title = f"{account.name}, with {account.bank}"
    out.print(table(title, ("last opening", "job", "opened", "mu"), rows))
    if held:
        out.print(f"Held for jobs that wait or run: {', '.join(f'{j} {_mu(v)}' for j, v in held.items())}")
    guess = best_guess(math.sqrt(spent))
    out.print(
        f"Within a year: mu {_mu(spent)} of {account.rules.year:g}; whatever the bank chose, a guess between two "
        f"records of a firm is right at most {guess:.0%} of the time."
    )
    left = account.left()
    enough = "enough" if left + 1e-9 >= account.rules.job**2 else "not enough"
    out.print(f"Left: mu {_mu(left)}, {enough} for a job of mu {account.rules.job:g}, the most that a job may spend.")
    refills, back = account.refills(), left
    rows = [(_day(at_s + DAY_S), job, _mu(mu2), _mu(back := back + mu2)) for at_s, job, mu2 in refills]
    if rows:
        out.print(table("It refills", ("from", "when this job is a year old", "mu", "left then, if none is new"), rows))
    if since is not None:
        out.print(f"Void since {_day(since)}: jobs in exact mode opened sums without noise, so no bound is promised.")


def _show_bits(out: Console, home: Path, rules: ReleaseRules) -> None:
    """Print how many firms each bank was told how many bits of, by scores and bands of a year."""
    with contextlib.closing(ReleaseLedger(home / LEDGER)) as ledger:
        told = firms_by_bits(ledger.releases(ledger.now_s() - YEAR_S))
    for bank, firms in sorted(told.items()):
        rows = [
            (f"{bits:.1f}", n, "used up" if bits >= rules.bits_per_year else "") for bits, n in sorted(firms.items())
        ]
        out.print(table(f"Scores and bands to {bank} within a year", ("bits of a firm", "firms", ""), rows))
    if told:
        out.print(
            f"A firm's bits are at most {rules.bits_per_year:g} a year, {rules.bits_per_score:g} a score, and come "
            "back a year after each; the same model on the same record is free. `veilscore account firm ID` has "
            "the days."
        )


def _bits(release: Release) -> str:
    return "exact" if release.bits == EXACT_BITS else f"{release.bits:.1f}"


def _mu(mu2: float) -> str:
    return f"{math.sqrt(mu2):.2f}"


def _day(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).date().isoformat()
