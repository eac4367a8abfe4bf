"""`veilscore bank mining`: rules over several parties, from what a job of task mine_rules opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, find_home
from veilscore.errors import ConfigError

if TYPE_CHECKING:
    from party_bank.mining import MinedJob, MinedRule
    from veilscore.arrays import Vector

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank mining show mined-rules --federation trial")
_HEADS = (
    "rule",
    "the bank's side",
    "the holder's side",
    "firms",
    "bads",
    "lift",
    "lift held out",
    "at least",
    "bads caught",
    "saved there",
    "confirmed",
)

MiningJob = Annotated[str, typer.Argument(help="The mining job's id or how it begins.")]
LossOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Part of a loan that is lost.")]
MarginOption = Annotated[float, typer.Option(min=0.0, max=1.0, help="Part of a loan that a good firm brings.")]
MostOption = Annotated[int, typer.Option(min=1, max=100, help="Rules at most.")]


@app.command("show", epilog="Example: veilscore bank mining show mined-rules --amount loan_amount --federation trial")
def show(
    job: MiningJob,
    *,
    amount: Annotated[str | None, typer.Option(help="The bank's column with amounts of loans; 1 each without.")] = None,
    loss_given_default: LossOption = 0.45,
    margin: MarginOption = 0.03,
    most: MostOption = 10,
    least_firms: Annotated[float, typer.Option(min=1.0, help="Firms that a rule takes at least.")] = 100.0,
    least_lift: Annotated[float, typer.Option(min=1.0, help="Lift that a rule has at least.")] = 1.5,
    out: Annotated[Path | None, typer.Option("--out", help="JSON with candidate knock-outs and table rows.")] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Show rules, what they take of held-out firms, and the money that they would have saved there."""
    from party_bank.mining import MinedJob  # noqa: PLC0415 - loads numpy

    bank = find_home(home, federation)
    folder = _folder(bank, job)
    mined = MinedJob(folder)
    money = mined.money(loss_given_default, margin, _amounts(bank, folder, amount))
    rules = mined.rules(money, most=most, least_firms=least_firms, least_lift=least_lift)
    rows = [_row(mined, number, rule) for number, rule in enumerate(rules, 1)]
    console().print(table(f"Rules of {folder.name}", _HEADS, rows))
    console().print(
        "Held-out figures are of other firms and other noise than those that rules were found by. A holder's codes say "
        "nothing to the bank: its steward reads them, and files the bins by name."
    )
    if mined.found.base_rate * loss_given_default > (1 - mined.found.base_rate) * margin:
        console().print(
            "At this loss and margin the bank's loans lose as a whole, so a rule that takes most of them pays."
        )
    if out is not None:
        out.write_text(json.dumps([_candidate(mined, rule) for rule in rules], indent=1, ensure_ascii=False))
        console().print(f"candidates: {out}")


@app.command("explain", epilog="Example: veilscore bank mining explain mined-rules --locale zh --federation trial")
def explain(
    job: MiningJob,
    *,
    locale: Annotated[Literal["en", "zh"], typer.Option(help="Language.")] = "en",
    loss_given_default: LossOption = 0.45,
    margin: MarginOption = 0.03,
    most: MostOption = 10,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Say what mining found in sentences, each figure a fact of the job, with what to do to make a rule a policy."""
    from party_bank.assistants.policy_findings import explain_rules  # noqa: PLC0415 - loads numpy
    from party_bank.mining import MinedJob  # noqa: PLC0415
    from veilscore.terms.node_config import load_node_config  # noqa: PLC0415
    from veilscore.terms.policy import utc_today  # noqa: PLC0415

    bank = find_home(home, federation)
    folder = _folder(bank, job)
    mined = MinedJob(folder)
    rules = mined.rules(mined.money(loss_given_default, margin), most=most)
    found = explain_rules(mined, rules, folder.name, today=utc_today(), owner=load_node_config(bank).name)
    for number, pieces in enumerate(found.sentences(locale), start=1):
        console().print(f"{number}. {''.join(piece.text for piece in pieces)}", soft_wrap=True, markup=False)
    console().print(
        f"{len(found.rules)} rules. `veilscore bank mining show {folder.name} --out rules.json` writes candidate rows; "
        "put one into a policy, try it with `veilscore policy test` and `compare`, and let two stewards activate it."
    )


def _folder(bank: Path, job: str) -> Path:
    folders = sorted(path for path in (bank / "jobs").glob(f"{job}*") if (path / "held.npz").is_file())
    if not folders:
        raise ConfigError(f"no finished mining job here begins with {job[:64]!r}; `veilscore job list` shows all jobs")
    return max(folders, key=lambda path: path.stat().st_mtime)


def _row(mined: MinedJob, number: int, rule: MinedRule) -> tuple[object, ...]:
    from party_bank.assistants.policy_findings import own_side  # noqa: PLC0415 - loads numpy

    held = rule.held
    return (
        number,
        own_side(mined, rule),
        f"{rule.id} of {rule.n_codes}",
        f"{rule.found.firms:,.0f}",
        f"{rule.found.bads:,.0f} +- {rule.found.bads_error:,.0f}",
        f"{rule.found.lift:.2f}",
        f"{held.lift:.2f}",
        f"{held.least_lift:.2f}",
        f"{100 * held.share_of_bads:.0f}%",
        f"{held.saved:,.0f} +- {held.saved_error:,.0f}",
        "yes" if rule.confirmed else "not by these firms",
    )


def _candidate(mined: MinedJob, rule: MinedRule) -> dict[str, object]:
    row = mined.table_row(rule)
    return {
        "knock_out": rule.knock_out(),
        "row": {"tests": dict(row.tests), "answers": dict(row.answers), "why": row.why},
        "held_out": {"lift": rule.held.lift, "least_lift": rule.held.least_lift, "saved": rule.held.saved},
    }


def _amounts(bank: Path, folder: Path, column: str | None) -> Vector | None:
    """Return a column of the bank's data set for the firms of a job, in its order; None without a column."""
    if column is None:
        return None
    import numpy as np  # noqa: PLC0415 - slow import

    from veilscore.data.ingest import read_table  # noqa: PLC0415
    from veilscore.files.store import JobStore  # noqa: PLC0415
    from veilscore.tasks.context import digest_of_ids  # noqa: PLC0415
    from veilscore.terms.node_config import load_node_config  # noqa: PLC0415

    store = JobStore(folder)
    node, about = load_node_config(bank), store.load_json("mined")
    if about["dataset"] not in node.datasets:
        raise ConfigError(f"data set {about['dataset']!r} of the job is no longer in node.yaml")
    dataset = node.datasets[about["dataset"]]
    read = read_table(
        dataset.source, dataset.key, columns=(column,), normaliser=about["id_normaliser"], rules=dataset,
        table=dataset.table, query=dataset.query,
    )  # fmt: skip
    if digest_of_ids(read) != store.load_json("aligned")["ids"]:
        raise ConfigError("the bank's data set has other firms than at the job: run it again")
    values = np.asarray(read.columns[column])
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all() or (values < 0).any():
        raise ConfigError(f"column {column!r} must hold an amount of at least 0 for every firm")
    return values.astype(np.float64)
