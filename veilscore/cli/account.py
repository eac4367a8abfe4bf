"""`veilscore account`: what each bank was told of each data set, counted."""

import datetime as dt
import math

import typer
from rich.console import Console
from rich.markup import escape

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.release.account import FILE, Account, accounts
from veilscore.terms.node_config import load_node_config
from veilscore.terms.privacy import best_guess, total

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
        out.print(f"Held for jobs that wait or run: {', '.join(f'{escape(j)} {_mu(v)}' for j, v in held.items())}")
    guess = best_guess(math.sqrt(spent))
    out.print(
        f"Within a year: mu {_mu(spent)} of {account.rules.year:g}; whatever the bank chose, a guess between two "
        f"records of a firm is right at most {guess:.0%} of the time."
    )
    if since is not None:
        out.print(f"Void since {_day(since)}: jobs in exact mode opened sums without noise, so no bound is promised.")


def _mu(mu2: float) -> str:
    return f"{math.sqrt(mu2):.2f}"


def _day(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).date().isoformat()
