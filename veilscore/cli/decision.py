"""`veilscore decision`: check a decision before it is filed, and look at those that are."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, moment, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.models.decided import FILE, FiledDecision, load_decision
from veilscore.models.decision_check import Measured, check
from veilscore.models.filed import load_model
from veilscore.models.stability import EXPECTED, load_expected
from veilscore.models.versions import roll_back, versions
from veilscore.terms.decision import NONE, DecisionModel, KnockOut, parse_decision
from veilscore.terms.settings import read_text

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Check decisions before they are filed, and look at those that are."""


@app.command("check", epilog="Example: veilscore decision check decision.yaml --federation trial")
def check_decision(
    file: Annotated[Path, typer.Argument(help="A decision, or the job that files it, as YAML.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Hold a decision against the bank's models: cut-offs that no total reaches, measures that decide nothing."""
    decision = parse_decision(read_text(file, "decision"), str(file))
    folder = find_home(home, federation) / "models"
    models = {m: _measured(folder / name) for m, name in decision.models.items() if (folder / name).is_dir()}
    out, found = console(), check(decision, models)
    _show_form(decision)
    for finding in found:
        colour = "red" if finding.serious else "yellow"
        out.print(styled(f"[{colour}]measure {{}}: {{}}[/{colour}]", finding.measure, finding.text), soft_wrap=True)
    if not found:
        out.print("Every step can be reached, and every measure decides.")
    if any(finding.serious for finding in found):
        raise typer.Exit(1)


def _measured(folder: Path) -> Measured:
    expected = load_expected(folder / EXPECTED)
    return Measured(load_model(folder / "model.json"), *(expected or ()))


@app.command("list", epilog="Example: veilscore decision list --federation trial")
def list_decisions(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """List the decisions that are in use at a party."""
    folder = find_home(home, federation, party) / "models"
    found = [FiledDecision.load(path.parent) for path in sorted(folder.glob(f"*/{FILE}"))]
    rows = [
        (
            d.decision.name,
            d.decision.purpose,
            ", ".join(map(str, d.decision.steps)),
            ", ".join(sorted(d.decision.measures)),
            str(len(d.decision.knock_outs)),
            f"{d.decision.bits:.2g}",
            d.sha256.hex()[:16],
        )
        for d in found
    ]
    heads = ("decision", "purpose", "steps", "measures", "knock-outs", "bits", "hash")
    console().print(table(str(folder), heads, rows))


@app.command("show", epilog="Example: veilscore decision show proactive-limit --home /srv/tax")
def show_decision(
    name: Annotated[str, typer.Argument(help="Name of the decision: the name of the job that filed it.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Show a decision: steps, measures with the versions of their models, knock-outs, and its own versions."""
    own = find_home(home, federation, party)
    filed = load_decision(own, name)
    out = console()
    out.print(styled("[bold]{}[/bold], hash {}", filed.decision.name, filed.sha256.hex()))
    _show_form(filed.decision)
    rows = [
        (measure, pin.model, "hand-written" if pin.written else "trained", pin.model_sha256[:16], ", ".join(pin.maps))
        for measure, pin in sorted(filed.pins.items())
    ]
    out.print(table("Versions of models", ("measure", "model", "kind", "hash", "holders with a part"), rows))
    filings = [(one.job_id, moment(one.filed_s), "in use" if one.in_use else "") for one in versions(own, name)]
    out.print(table("Versions of the decision", ("job", "filed", ""), filings))


@app.command("rollback", epilog="Example: veilscore decision rollback proactive-limit --home /srv/bank")
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the decision: the name of the job that filed it.")],
    *,
    to: Annotated[str | None, typer.Option("--to", help="Id of the job whose version; default the one before.")] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Put an earlier version of a decision to use at the bank; holders keep all and go by the one that it names."""
    own = find_home(home, federation)
    load_decision(own, name)  # not a model of this name
    done = roll_back(own, name, to)
    in_use = load_decision(own, name)
    console().print(f"{name}: the version of {done.job_id} is in use, hash {in_use.sha256.hex()}", soft_wrap=True)


def _show_form(decision: DecisionModel) -> None:
    """Print what a bank types of a decision."""
    out = console()
    rows = [
        (
            name,
            measure.model or f"the bank's column {measure.column}",
            ", ".join(f"{c:.10g}" for c in measure.cutoffs) or "the steps",
        )
        for name, measure in sorted(decision.measures.items())
    ]
    kind = "levels below" if decision.watch else "steps from"
    out.print(table("Measures", ("measure", "of", f"{kind} these totals"), rows))
    if decision.knock_outs:
        conditions = [(one.party, one.column, _condition(one)) for one in decision.knock_outs]
        out.print(table("Knock-outs", ("party", "column", "knocks out"), conditions))
    steps = ", ".join(map(str, (NONE, *decision.steps)))
    told = "; which measure decided is told too" if decision.tell_measure else ""
    year = " a contract year" if decision.watch else ""
    out.print(
        f"{decision.purpose}: {steps}{told}; tells {decision.bits:.2g} bits of a firm{year}",
        soft_wrap=True,
        highlight=False,
    )


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.10g}" for number in numbers)


def _condition(knock_out: KnockOut) -> str:
    if knock_out.is_:
        return f"is {' or '.join(knock_out.is_)}"
    return f"above {knock_out.above:.10g}" if knock_out.above is not None else f"{knock_out.up_to:.10g} or less"
