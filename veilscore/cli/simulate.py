"""`veilscore simulate`: data for a trial."""

import json
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, table
from veilscore.data.simulate import simulate_to_folder

app = typer.Typer()


@app.command(epilog="Example: veilscore simulate trial/data --firms 20000 --seed 1")
def simulate(
    folder: Annotated[Path, typer.Argument(help="Where the files go, and the truth.")],
    *,
    firms: Annotated[int, typer.Option(min=100, help="Number of firms, 10 000 to 1 000 000 are usual.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same data.")] = 1,
    parquet: Annotated[bool, typer.Option("--parquet", help="Parquet in place of CSV.")] = False,
    life: Annotated[
        bool, typer.Option("--life", help="Three years of events in place of one row a firm; a folder for each holder.")
    ] = False,
) -> None:
    """Make realistic data of small firms for a trial, with known true effects.

    One file for the bank, one for the tax bureau, one for the business registry. With --life, event tables of a bank, a
    tax bureau, a registry, a court and a credit bureau, from which `veilscore features build` makes variables.
    """
    if life:
        from veilscore.data.life import simulate_life  # noqa: PLC0415 - loads every holder's package

        figures = simulate_life(folder, firms, seed)
        rows = [(key, json.dumps(value)) for key, value in figures.items() if key != "effects"]
        console().print(table(f"Simulated in {folder}", ("what", "value"), rows))
        return
    truth = simulate_to_folder(folder, firms, seed, "parquet" if parquet else "csv")
    rows = [(key, json.dumps(value)) for key, value in truth.items() if key != "effects"]
    console().print(table(f"Simulated in {folder}", ("what", "value"), rows))
