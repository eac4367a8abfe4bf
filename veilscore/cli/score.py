"""`veilscore score`: one firm, now."""

import math
import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer

from veilscore.cli.connection import Connection, reach
from veilscore.cli.display import coloured, console, line, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, find_home
from veilscore.errors import ConfigError
from veilscore.release.consent import Signed
from veilscore.release.token_choice import set_aside, token_of
from veilscore.terms.bands import MAX_STEPS, MOST_STEPS
from veilscore.terms.node_config import load_node_config
from veilscore.terms.policy import SCORE_ONLINE
from veilscore.terms.settings import read_text
from veilscore.v1 import control_pb2

_PATIENCE_S = 5.0  # beyond the request's own timeout, for the answer to come back


app = typer.Typer()


@app.command(epilog="Example: veilscore score 91310000MA1K35TQ6F --model joint-scorecard --federation trial")
def score(
    firm: Annotated[str, typer.Argument(help="The firm's id.")],
    *,
    model: Annotated[str, typer.Option(help="Name of the model.")],
    home: HomeOption = None,
    federation: FederationOption = None,
    request_id: Annotated[
        str | None, typer.Option(help="Your id of this request: a retry under it gets the same answer.")
    ] = None,
    purpose: Annotated[str, typer.Option(help="Why; default: what the model was trained for.")] = "",
    on_missing: Annotated[
        Literal["fail", "missing_code", "neutral"],
        typer.Option(
            help="What to do where a holder does not know the firm (missing_code: take the bin of missing values), "
            "refuses or cannot be reached. fail tells which firms a holder knows, so its policy has to allow it."
        ),
    ] = "missing_code",
    output: Annotated[
        Literal["score", "band", "exact"],
        typer.Option(
            help="score: in at most 32 steps; exact: to the point, where holders allow it (exact_for); band: the band "
            "alone. Of steps and bands nobody, not even the bank, sees the exact score."
        ),
    ] = "score",
    steps: Annotated[
        int, typer.Option(min=2, max=MAX_STEPS, help="Most steps of a score; over 32 only where holders allow it.")
    ] = MOST_STEPS,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds.")] = 10.0,
    consent: Annotated[
        Path | None, typer.Option(help="Token of the firm; default: one for it that `veilscore consent import` kept.")
    ] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of the bank's own columns; default: its data set's row.")
    ] = None,
) -> None:
    """Score one firm now: points, band, probability of default, status of every party, reasons.

    The firm's record stays encrypted at the holders' keys; the bank learns the step of the score only, or with
    `--output band` the band only.
    """
    features = read_features(feature)
    request = control_pb2.ScoreRequest(
        request_id=request_id or secrets.token_hex(8),
        firm_id=firm,
        model=model,
        timeout_s=timeout,
        purpose=purpose,
        on_missing=on_missing,
        features=features,
        output=output,
        score_steps=0 if steps == MOST_STEPS else steps,
    )
    response = answer_to(request, find_home(home, federation), consent)
    show_score(response)


def answer_to(
    request: control_pb2.ScoreRequest, own: Path, consent: Path | None, task: str = SCORE_ONLINE
) -> control_pb2.ScoreResponse:
    """Ask the bank's node about one firm, with its consent, and return the answer; a token that was used is set aside.

    consent : file of the firm's token; None: one that was imported, for this task.
    """
    kept = None
    if consent is not None:
        request.consent = Signed.from_text(read_text(consent, "consent"), str(consent)).to_message().SerializeToString()
    else:
        bank = load_node_config(own).name
        kept = token_of(own, bank, request.firm_id, request.model, request.purpose, task, request.request_id)
        request.consent = b"" if kept is None else kept[1].to_message().SerializeToString()

    async def ask(connection: Connection) -> control_pb2.ScoreResponse:
        wait_s = request.timeout_s + _PATIENCE_S
        return await connection.call(connection.node, "Score", request, control_pb2.ScoreResponse, wait_s)

    response = reach(own, ask)
    if kept is not None and response.status in {"scored", "fallback"}:
        set_aside(*kept, request.request_id)
    return response


def show_score(response: control_pb2.ScoreResponse) -> None:
    """Print a response; exit code 1 unless it has a score."""
    out = console()
    out.print(line(f"request {response.request_id}:", coloured(response.status), response.message))
    scored = response.status in {"scored", "fallback"}
    if scored and response.output == "band":
        out.print(styled("[bold]band {}[/bold] (model {} {})", response.band, response.model, response.model_version))
    elif scored:
        band = f", band {response.band}" if response.band else ""
        points = shown_points(response.score)
        step = f"about {points} points (step {response.step + 1} of {response.steps})"
        points = step if response.steps else f"{points} points"
        out.print(
            styled("[bold]{}[/bold]", points) + f"{band}, probability of default {response.probability_of_default:.2%} "
            f"(model {response.model} {response.model_version})"
        )
    out.print(
        table("Parties", ("party", "status", "reason"), ((p.party, p.status, p.reason) for p in response.parties))
    )
    if response.reasons:
        rows = ((r.party, r.column, f"{r.points_lost:.1f}", r.text) for r in response.reasons)
        out.print(table("What cost most points", ("party", "column", "points", "bin"), rows))
    if not scored:
        raise typer.Exit(1)


def shown_points(score: float) -> str:
    """Return points cut after one digit, never rounded up: what is shown lies in the band that the exact score has."""
    return f"{math.floor(score * 10) / 10:.1f}"


def read_features(given: list[str] | None) -> dict[str, str]:
    """Return COLUMN=VALUE words as a mapping; ConfigError for another word."""
    return dict(_pair(text) for text in given or [])


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--feature {text}: write COLUMN=VALUE")
    return name, value
