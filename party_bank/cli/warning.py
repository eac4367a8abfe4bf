"""`veilscore bank warning`: early warnings, from rows to learn from to the report of what they were good for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from party_bank import alarms
from party_bank.book_tables import case_number
from party_bank.cli.homes import OpenBank, opened, print_firms
from party_bank.cli.joint import DecisionsOption, HoldersOption, JobOption, StepsOption, joint_decision
from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption
from veilscore.errors import ConfigError
from veilscore.terms.settings import read_day

app = typer.Typer(no_args_is_help=True, epilog="Example: veilscore bank warning list --home /srv/bank")
HolderOption = Annotated[
    list[str], typer.Option("--holder", help="Holder, the lead first; tax=panel names its data set, else the bank's.")
]
DatasetOption = Annotated[str, typer.Option(help="The bank's data set of the job.")]


@app.callback()
def group() -> None:
    """Early warnings: rows to learn from, cut-offs within a budget, monthly alarms, cases, and their report."""


@app.command("rows", epilog="Example: veilscore bank warning rows jobs --holder tax --holder court --home /srv/bank")
def rows(
    folder: Annotated[Path, typer.Argument(help="Folder for the jobs that train on them.")],
    *,
    holder: HolderOption,
    as_of: Annotated[str, typer.Option("--as-of", help="Use what was known on this day; default today.")] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write firm-months with their variables and label, and two jobs that train on them."""
    from party_bank.alarm_budget import training_jobs  # noqa: PLC0415 - loads numpy
    from party_bank.warning_rows import feedback_of, labelled, overdue_of, owing_of, write_rows  # noqa: PLC0415
    from veilscore.files.store import write_text  # noqa: PLC0415

    with opened(home, federation) as bank:
        settings, name = bank.settings, bank.settings.warnings.dataset
        day = read_day(as_of, "--as-of") if as_of else bank.book.today()
        owing, overdue = owing_of(bank.book, settings, bank.home), overdue_of(settings, bank.home)
        made = labelled(owing, overdue, settings.warnings, day, feedback_of(bank.book))
        path = write_rows(bank.node, settings, made)
        jobs = training_jobs(bank.node.name, _datasets(bank, name or "", holder), settings, made)
    folder.mkdir(parents=True, exist_ok=True)
    out = console()
    n_firms, days = len(set(made.firms.tolist())), sorted(set(made.days.tolist()))
    out.print(
        f"{made.firms.size:,} firm-months of {n_firms:,} firms, {days[0]} to {days[-1]}, {int(made.overdue.sum()):,} "
        f"overdue within {settings.warnings.months} months: {path}",
        soft_wrap=True,
    )
    for job, text in jobs.items():
        write_text(folder / f"{job}.yaml", text)
        out.print(f"job: {folder / job}.yaml", soft_wrap=True)


@app.command(
    "levels", epilog="Example: veilscore bank warning levels hazard-card watch.yaml --dataset now --holder tax"
)
def levels(
    model: Annotated[str, typer.Argument(help="The trained hazard: name of a filed model.")],
    file: Annotated[Path, typer.Argument(help="Where to write the job that files the decision.")],
    *,
    dataset: DatasetOption,
    holder: HolderOption,
    sized: Annotated[
        str, typer.Option(help="Job of task size_decision on the watch: cut-offs follow the firms that it counted.")
    ] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write the decision whose levels disturb the shares of firms that bank.yaml allows.

    By the counts of the model's hold-out, or with --sized by those of firms today.
    """
    from party_bank.alarm_budget import alarm_cutoffs, decision_job, followed_cutoffs  # noqa: PLC0415 - loads numpy
    from veilscore.files.store import write_text  # noqa: PLC0415

    with opened(home, federation) as bank:
        known = bank.home / "models" / model
        if not (known / "model.json").is_file():
            raise ConfigError(f"no model {model[:60]!r} is filed here; `veilscore model list` shows all")
        rules = bank.settings.warnings
        shares = [level.share for level in rules.levels]
        counted = bank.home / "jobs" / Path(sized).name
        cutoffs = followed_cutoffs(counted, known, shares) if sized else alarm_cutoffs(known, shares)
        named = _datasets(bank, dataset, holder)
        write_text(file, decision_job(bank.node.name, named, bank.settings, model, cutoffs))
    shown = ((n.name, f"{n.share:.1%}", f"{cutoff:g}") for n, cutoff in zip(rules.levels, cutoffs, strict=True))
    console().print(table("Levels", ("level", "firms in a month", "below"), shown))
    console().print(f"job: {file}", soft_wrap=True)


@app.command("firms", epilog="Example: veilscore bank warning firms --home /srv/bank > firms.csv")
def firms(
    *,
    job: Annotated[Path | None, typer.Option(help="Also write this month's job here.")] = None,
    dataset: DatasetOption = "main",
    holder: HolderOption = (),  # type: ignore[assignment]
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Print the ids of the firms to ask for this month, as CSV: those that owe and consented."""
    with opened(home, federation) as bank:
        with bank.book.reading() as entry:
            found, silent = alarms.watched_firms(entry)
            last, today = alarms.last_job(entry), entry.today
        if job is not None:
            from party_bank.alarm_budget import month_job  # noqa: PLC0415 - loads numpy
            from veilscore.files.store import write_text  # noqa: PLC0415

            named = _datasets(bank, dataset, holder)
            write_text(job, month_job(bank.node.name, named, bank.settings, today, last))
    print_firms(found)
    if silent:
        typer.echo(f"{silent:,} more owe and gave no consent to a watch", err=True)


@app.command("run", epilog="Example: veilscore bank warning run --decisions /srv/bank/jobs/alarms-2026-11-...")
def run(
    *,
    decisions: DecisionsOption = None,
    steps: StepsOption = 31,
    holders: HoldersOption = "",
    job: JobOption = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Enter this month's alarms and open their cases; again, it does what is left."""
    with opened(home, federation) as bank, joint_decision(bank, decisions, steps, holders, job=job) as joint:
        month = bank.book.today()
        ended = alarms.run(bank.book, bank.settings, joint, month, bank.actor)
    console().print(table(f"Alarms of {month:%Y-%m}", ("outcome", "firms"), sorted(ended.items())))


@app.command("list", epilog="Example: veilscore bank warning list --manager li --home /srv/bank")
def list_(
    *,
    status: Annotated[str, typer.Option(help="open, closed or all.")] = "open",
    manager: Annotated[str, typer.Option(help="Those of one account manager.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """List cases with their next steps, the most urgent first."""
    if status not in {"open", "closed", "all"}:
        raise ConfigError(f"--status {status[:40]!r}: say open, closed or all")
    with opened(home, federation) as bank:
        found = alarms.listed(bank.book, "" if status == "all" else status, manager)
        today, rules = bank.book.today(), bank.settings.warnings
    keys = ("firm", "name", "manager", "status", "next_step", "feedback", "note")
    cases = [
        {
            "case": case_number(row["id"]),
            **{key: row[key] for key in keys},
            "level": rules.of_level(row["level"]).name,
            "month": f"{row['month']:%Y-%m}",
            "due_on": row["due_on"].isoformat(),
            "late": row["status"] == "open" and row["due_on"] < today,
        }
        for row in found
    ]
    if as_json:
        typer.echo(json.dumps(cases, ensure_ascii=False, indent=1))
        return
    heads = ("case", "firm", "name", "manager", "level", "alarm of", "status", "by", "next step or feedback")
    shown = [
        (c["case"], c["firm"], c["name"], c["manager"], c["level"], c["month"], c["status"],
         f"{c['due_on']}{' (late)' if c['late'] else ''}", c["next_step"] if c["status"] == "open" else _found(c))
        for c in cases
    ]  # fmt: skip
    console().print(table("Cases", heads, shown))


def _found(case: dict[str, object]) -> str:
    return f"{case['feedback']}: {case['note']}" if case["note"] else str(case["feedback"])


@app.command(
    "settle", epilog="Example: veilscore bank warning settle W0000001 --feedback true --note 'lost a customer'"
)
def settle(
    case: Annotated[str, typer.Argument(help="Number of the case.")],
    *,
    feedback: Annotated[
        str, typer.Option(help="true: it was in trouble; false: it was not; other: learn nothing of it.")
    ],
    note: Annotated[str, typer.Option(help="What was found.")] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Close a case with what was found; the word is a label for the next training."""
    with opened(home, federation) as bank:
        done = alarms.settle(bank.book, case, feedback, note, bank.actor)
    console().print(f"case {case_number(done['id'])}: closed, {done['feedback']}", soft_wrap=True)


@app.command("report", epilog="Example: veilscore bank warning report --own own.csv --json report.json")
def report(
    *,
    own: Annotated[
        Path | None,
        typer.Option(help="Risk by the bank's present means, to compare: uscc, month (its first day), risk."),
    ] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write it as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the months, as SVG.")] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Show coverage, budget, lead and good firms disturbed, of months whose outcome is known."""
    from party_bank.warning_report import months_chart  # noqa: PLC0415 - loads numpy
    from party_bank.warning_report import report as make  # noqa: PLC0415
    from veilscore.files.store import write_text  # noqa: PLC0415

    with opened(home, federation) as bank:
        found = make(bank.book, bank.settings, bank.home, own)
    if as_json is not None:
        write_text(as_json, json.dumps(found.as_json(), indent=1))
    if plot is not None and found.joint is not None:
        months_chart(found.joint).save(plot)
    out, rules = console(), bank.settings.warnings
    both = [
        (name, f, reach)
        for name, f, reach in (
            ("joint", found.joint, found.joint_reach),
            ("bank only", found.bank_only, found.bank_only_reach),
        )
        if f is not None
    ]
    heads = ("by", "firm-months", "alarm budget", "overdue", "warned before", "lead, months", "good firms", "disturbed",
             "90 % warned with")  # fmt: skip
    shown = [
        (name, f"{f.firm_months:,}", _percent(f.budget), f"{f.overdue:,}", _percent(f.coverage),
         f"{f.lead_months:.1f}" if f.warned else "-", f"{f.good:,}", _percent(f.disturbed),
         f"over {_percent(f.budget)}" if reach is None else _percent(reach))
        for name, f, reach in both
    ]  # fmt: skip
    if found.joint is None:
        out.print(f"no month is over yet: one is {rules.months} months after its levels were told", soft_wrap=True)
    else:
        out.print(table(f"Warnings, known on {found.until}", heads, shown))
        months = [
            (m.day, f"{m.watched:,}", f"{m.alarmed:,}", f"{m.overdue:,}", f"{m.warned:,}") for m in found.joint.months
        ]
        ahead = f"overdue within {rules.months} months"
        out.print(table("By month, joint", ("told on", "watched", "at a level", ahead, "of them at a level"), months))
    words = ", ".join(f"{word} {n:,}" for word, n in sorted(found.feedback.items())) or "none"
    out.print(f"{found.alarms:,} alarms; cases closed: {words}; open: {found.open_cases:,}", soft_wrap=True)


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.1f}%"  # noqa: PLR0124 (NaN)


def _datasets(bank: OpenBank, own: str, holders: Sequence[str]) -> dict[str, str]:
    """Return the data set of each party, the bank first; holders are given as NAME or NAME=DATASET."""
    if not holders:
        raise ConfigError("name the holders of the job: --holder tax --holder registry")
    named = [holder.partition("=") for holder in holders]
    return {bank.node.name: own, **{party: dataset or own for party, _, dataset in named}}
