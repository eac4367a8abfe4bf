"""`veilscore features`: an owner makes variables of its event tables."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import ConfigError
from veilscore.features.catalogue import Catalogue, find_catalogue
from veilscore.features.expansion import Variable, expand, variable_hash
from veilscore.terms.node_config import DatasetConfig, load_node_config
from veilscore.terms.settings import read_day

app = typer.Typer(no_args_is_help=True)
DatasetName = Annotated[str, typer.Argument(help="Name of a data set in node.yaml that has `features`.")]
AsOf = Annotated[
    str, typer.Option("--as-of", help="Date, YYYY-MM-DD: what happened or was known on it or later does not count.")
]


@app.callback()
def group() -> None:
    """Make variables of event tables, at their owner."""


def _dataset(name: str, home: Path | None, federation: Path | None, party: str | None) -> tuple[DatasetConfig, Path]:
    """Return a data set with `features` of a home, and the path of its file."""
    config = load_node_config(find_home(home, federation, party))
    entry = config.datasets.get(name)
    if entry is None:
        raise ConfigError(
            f"{config.name} has no data set named {name!r}; it has: {', '.join(config.datasets) or 'none'}"
        )
    if entry.features is None or entry.path is None:
        raise ConfigError(
            f"data set {name!r} of {config.name} has no `features`; add features: {{catalogue: ..., events: ...}} to "
            f"it in node.yaml (`veilscore explain dataset`)"
        )
    return entry, entry.path


@app.command(epilog="Example: veilscore features plan main --home /srv/tax")
def plan(
    name: Annotated[str, typer.Argument(help="Data set in node.yaml, or with --catalogue nothing.")] = "",
    *,
    catalogue: Annotated[
        str, typer.Option(help="A catalogue in place of a data set: a file *.yaml, or one that is shipped.")
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="Name every variable, with its hash.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Check a catalogue and show which variables it makes; no event is read."""
    if bool(name) == bool(catalogue):
        raise ConfigError("name a data set of node.yaml, or a catalogue with --catalogue")
    source = None if catalogue else _dataset(name, home, federation, party)[0].features
    found = find_catalogue(source.catalogue if source else catalogue)
    variables = expand(found)
    out = console()
    out.print(f"catalogue {found.name}, {len(variables):,} variables, sha256 {found.hash}", soft_wrap=True)
    if every:
        for one in variables:
            out.print(f"{variable_hash(found, one)[:16]} {one.name}", soft_wrap=True)
        return
    out.print(table("Variables", ("table", "aggregate", "number", "for example"), _summary(variables)))
    for text in found.terms:
        if not text.words:
            out.print(
                f"and up to {text.most * len(text.windows):,} of terms of {text.table}.{text.of}, chosen when built"
            )


def _summary(variables: tuple[Variable, ...]) -> list[tuple[str, str, str, str]]:
    counts = Counter((one.table or "derived", one.aggregate) for one in variables)
    first: dict[tuple[str, str], str] = {}
    for one in variables:
        first.setdefault((one.table or "derived", one.aggregate), one.name)
    return [(*pair, f"{number:,}", first[pair]) for pair, number in counts.items()]


@app.command(epilog="Example: veilscore features build main --as-of 2026-06-30 --home /srv/tax")
def build(
    name: DatasetName,
    *,
    as_of: Annotated[
        list[str],
        typer.Option("--as-of", help="Date, YYYY-MM-DD, as for check; of a data set with id_columns, again for each."),
    ],
    renew_terms: Annotated[bool, typer.Option("--renew-terms", help="Choose terms of texts anew.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Build a data set's variables from its events, in place of its file; jobs on the version before ask anew."""
    from veilscore.features.build import DAY_COLUMN, FIRM_COLUMN, earlier_terms, lineage_path  # noqa: PLC0415
    from veilscore.features.build import build as make  # noqa: PLC0415 - loads duckdb

    entry, path = _dataset(name, home, federation, party)
    found = _catalogue(entry)
    fixed = None if renew_terms else earlier_terms(path, found)
    days = [read_day(text, "--as-of").isoformat() for text in as_of]
    if entry.id_columns is None and len(days) > 1:
        raise ConfigError(f"data set {name!r} has one row a firm; several --as-of need id_columns: [uscc, as_of] there")
    if entry.key_columns != (FIRM_COLUMN, DAY_COLUMN)[: len(entry.key_columns)]:
        raise ConfigError(f"data set {name!r}: what is built has the id columns {FIRM_COLUMN} and {DAY_COLUMN}")
    made = make(found, _source(entry), path, days if entry.id_columns else days[0], fixed_terms=fixed)
    out = console()
    rows = "firms" if entry.id_columns is None else "firms at dates"
    out.print(
        f"{len(made.variables):,} variables of {made.n_rows:,} {rows} as of {', '.join(days)}: {path!s}", soft_wrap=True
    )
    out.print(f"catalogue {found.name}, sha256 {found.hash}", soft_wrap=True)
    out.print(f"lineage of each: {lineage_path(path)!s}", soft_wrap=True)


@app.command(epilog="Example: veilscore features describe main --as-of 2026-06-30 --home /srv/tax")
def describe(
    name: DatasetName,
    *,
    as_of: AsOf,
    months: Annotated[int, typer.Option(min=0, max=24, help="Earlier dates, 30 days apart, for stability.")] = 3,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Measure variables (missing, distinct, range, stability, freshness) and write a page and a CSV beside them."""
    from veilscore.features.build import earlier_terms  # noqa: PLC0415 - loads duckdb
    from veilscore.features.quality import measure  # noqa: PLC0415
    from veilscore.reports.variables import write_quality  # noqa: PLC0415

    entry, path = _dataset(name, home, federation, party)
    found = _catalogue(entry)
    day = read_day(as_of, "--as-of").isoformat()
    quality = measure(found, _source(entry), day, months=months, terms=earlier_terms(path, found))
    page = write_quality(quality, path)
    out = console()
    fresh = (
        (
            one.table,
            f"{one.facts.rows:,}",
            "never" if one.age_days is None else f"{one.age_days} days before",
            _share(one.by_month),
        )
        for one in quality.tables
    )
    out.print(
        table("Event tables", ("table", "rows", "latest event", "events of the last 3 periods of 30 days"), fresh)
    )
    remarks = Counter(one.remark or "nothing to remark" for one in quality.variables)
    out.print(table("Variables", ("remark", "number"), ((text, f"{n:,}") for text, n in remarks.most_common())))
    out.print(f"page: {page!s}", soft_wrap=True)


def _share(by_month: tuple[int, ...]) -> str:
    return ", ".join(f"{count:,}" for count in by_month[:3])


@app.command(epilog="Example: veilscore features check main --as-of 2026-06-30 --home /srv/tax")
def check(
    name: DatasetName,
    *,
    as_of: AsOf,
    earlier: Annotated[
        Path | None, typer.Option(help="Folder with the event files as they were at that date, to compare with.")
    ] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Find variables that would have had another value on the day itself; exit code 1 if there are any."""
    from veilscore.features.leaks import find_leaks  # noqa: PLC0415 - loads duckdb

    entry, _ = _dataset(name, home, federation, party)
    found = find_leaks(_catalogue(entry), _source(entry), read_day(as_of, "--as-of").isoformat(), earlier=earlier)
    out = console()
    for one in found:
        shown = f": {', '.join(one.variables[:3])}{', ...' if len(one.variables) > 3 else ''}" if one.variables else ""
        count = f"{len(one.variables):,} variables change; " if one.variables else ""
        colour = "red" if one.leaks else "yellow"
        word = "leak" if one.leaks else "remark"
        out.print(styled(f"[{colour}]{word}[/{colour}] {{}}", f"{one.table}: {count}{one.text}{shown}"), soft_wrap=True)
    if any(one.leaks for one in found):
        raise typer.Exit(1)
    out.print(f"no leak found as of {as_of}")


def _catalogue(entry: DatasetConfig) -> Catalogue:
    return find_catalogue(entry.features.catalogue if entry.features else "")


def _source(entry: DatasetConfig) -> Path | str:
    return entry.features.source if entry.features else ""
