"""`veilscore screening`: what a screening kept, what it dropped, and why."""

import json
from typing import Annotated, Any

import typer

from veilscore.cli.display import console, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, find_home
from veilscore.errors import ConfigError

app = typer.Typer(no_args_is_help=True)


@app.command("show", epilog="Example: veilscore screening show wide-screen --federation trial")
def show(
    name: Annotated[str, typer.Argument(help="Name of the screening job.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Columns to show, the highest IV first.")] = 40,
) -> None:
    """Show the bank's table of a screening: IV, population stability, missing rate, kept or dropped and why."""
    path = find_home(home, federation) / "screenings" / name / "screening.json"
    if not path.is_file():
        raise ConfigError(f"no screening {name!r} at {path}: the bank's home has those of its finished screening jobs")
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    columns = sorted(body["columns"], key=lambda c: (not c["kept"], -(c["iv"] or 0.0)))
    out, n_kept = console(), sum(c["kept"] for c in columns)
    out.print(
        styled("[bold]{}[/bold]: {} of {} columns kept, job {}", body["name"], n_kept, len(columns), body["job_id"])
    )
    out.print(f"train on them with  columns_from: {body['name']}@{body['sha256'][:16]}")
    rows = [
        (
            c["party"],
            c["name"],
            _number(c["iv"]),
            _number(c["stability"]),
            _number(c["missing_rate"]),
            "yes" if c["kept"] else "no: " + c["reason"],
        )
        for c in columns[:top]
    ]
    out.print(table("Columns", ("party", "column", "IV", "population stability", "missing", "kept"), rows))
    if len(columns) > top:
        out.print(f"{len(columns) - top} more in {path.with_suffix('.csv')}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
