"""`veilscore decide`: the step of one firm by a filed decision, now."""

import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer

from veilscore.cli.display import coloured, console, line, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, find_home
from veilscore.cli.score import answer_to, read_features
from veilscore.terms.decide import Decide
from veilscore.v1 import control_pb2

app = typer.Typer()


@app.command(epilog="Example: veilscore decide 91310000MA1K35TQ6F --decision proactive-limit --federation trial")
def decide(
    firm: Annotated[str, typer.Argument(help="The firm's id.")],
    *,
    decision: Annotated[str, typer.Option(help="Name of the filed decision.")],
    home: HomeOption = None,
    federation: FederationOption = None,
    request_id: Annotated[
        str | None, typer.Option(help="Your id of this request: a retry under it gets the same answer.")
    ] = None,
    purpose: Annotated[str, typer.Option(help="Why; default: what the decision is for.")] = "",
    on_missing: Annotated[
        Literal["fail", "missing_code"],
        typer.Option(help="What to do where a holder does not know the firm."),
    ] = "fail",
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds.")] = 10.0,
    consent: Annotated[
        Path | None, typer.Option(help="Token of the firm; default: one for it that `veilscore consent import` kept.")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of the bank's own columns; default: its data set's row.")
    ] = None,
) -> None:
    """Decide on one firm now: the step of a filed decision, and not the scores behind it.

    Nobody, not even the bank, sees a total, nor which knock-out held.
    """
    request = control_pb2.ScoreRequest(
        request_id=request_id or secrets.token_hex(8),
        firm_id=firm,
        model=decision,
        timeout_s=timeout,
        purpose=purpose,
        on_missing=on_missing,
        features=read_features(feature),
        output="decision",
    )
    response = answer_to(request, find_home(home, federation), consent, Decide.task)
    show_decision(response)


def show_decision(response: control_pb2.ScoreResponse) -> None:
    """Print a response; exit code 1 unless it has a decision."""
    out, done = console(), response.status in {"scored", "fallback"}
    word = "decided" if response.status == "scored" else response.status
    out.print(line(f"request {response.request_id}:", coloured(word), response.message))
    if done:
        measure = f", by {response.measure}" if response.measure else ""
        out.print(
            styled("[bold]{}[/bold] (step {} of {})", response.band, response.step, response.steps)
            + f"{measure} (decision {response.model} {response.model_version})"
        )
    out.print(
        table("Parties", ("party", "status", "reason"), ((p.party, p.status, p.reason) for p in response.parties))
    )
    if not done:
        raise typer.Exit(1)
