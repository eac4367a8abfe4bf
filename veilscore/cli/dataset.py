"""`veilscore dataset`: how data sets are read, their fixed bins, and what holders publish of them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.data.fixed_bins import FixedBins
from veilscore.errors import ConfigError
from veilscore.release.catalogue import publish, read_published, verify_published
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.terms.reading import NOTHING_SAID, ReadingRules
from veilscore.terms.settings import read_text

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """How data sets are read, what holders publish of them, and their fixed bins."""


@app.command("bins", epilog="Example: veilscore dataset bins main --home /srv/tax")
def fix_bins(
    name: Annotated[str, typer.Argument(help="Name of the data set in node.yaml.")],
    *,
    renew: Annotated[bool, typer.Option("--renew", help="Make a new version, charged to each bank once more.")] = False,
    normaliser: Annotated[str, typer.Option(help="Kind of id, as in jobs.")] = "uscc",
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Fix the bins that private jobs use, on the whole data set and with noise, or show those in force."""
    own = find_home(home, federation, party)
    config = load_node_config(own)
    if name not in config.datasets:
        raise ConfigError(f"{config.name} has no data set named {name!r}; it has: {', '.join(config.datasets)}")
    fixed = _fixed_bins(own, config, name, normaliser, renew=renew)
    rows = ((c, cells.kind, str(len(cells.counts) - 1)) for c, cells in fixed.columns.items())
    console().print(
        f"version {fixed.hash[:16]} of {fixed.made}; each count has noise of {fixed.sigma:.0f} rows; a bank is charged "
        f"mu {fixed.mu2**0.5:.2f} once"
    )
    console().print(table("Cells that jobs merge into bins", ("column", "kind", "cells"), rows))


def _fixed_bins(own: Path, config: NodeConfig, name: str, normaliser: str, *, renew: bool = False) -> FixedBins:
    """Return the bins of a data set that are in force; those of a new version where there are none, or `renew`."""
    from veilscore.data.ingest import read_table  # noqa: PLC0415 - loads duckdb
    from veilscore.tasks.fixed_bins import load, make  # noqa: PLC0415 - loads every protocol

    fixed = None if renew else load(own, name)
    if fixed is not None:
        return fixed
    entry = config.datasets[name]
    named = {entry.label_column, entry.weight_column, entry.date_column} - {None, *entry.key_columns}
    data = read_table(
        entry.source,
        entry.key,
        exclude=(*entry.exclude, *sorted(map(str, named))),
        normaliser=normaliser,
        rules=entry,
        table=entry.table,
        query=entry.query,
    )
    return make(own, name, data, renew=renew)


@app.command("describe", epilog="Example: veilscore dataset describe firms.xlsx --id uscc")
def describe_dataset(
    what: Annotated[str, typer.Argument(help="Name of the data set in node.yaml, or a file that is to become one.")],
    *,
    id_column: Annotated[str, typer.Option("--id", help="Column with the ids of firms, of a file.")] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Propose how the columns of a file are read, as lines for node.yaml; no value of a row is shown."""
    from veilscore.data.describe import describe, proposal  # noqa: PLC0415 - loads duckdb

    path, roles = Path(what), {id_column}
    if path.is_file():
        rules: ReadingRules = NOTHING_SAID
        shown = f"path: {json.dumps(str(path), ensure_ascii=False)}"
    else:
        config = load_node_config(find_home(home, federation, party))
        if what not in config.datasets:
            raise ConfigError(f"{what} is neither a file nor a data set of node.yaml: {', '.join(config.datasets)}")
        entry = config.datasets[what]
        if entry.path is None:
            raise ConfigError(
                f"{what} is a database, whose columns have types; cast them in its query where they differ"
            )
        roles = {*entry.key_columns} | {entry.label_column or "", entry.weight_column or "", entry.date_column or ""}
        rules, path, shown = entry, entry.path, ""
    console().print(proposal(describe(path, rules, roles), shown, id_column), soft_wrap=True, highlight=False)


@app.command("publish", epilog="Example: veilscore dataset publish main --home /srv/tax")
def publish_dataset(
    name: Annotated[str, typer.Argument(help="Name of the data set in node.yaml.")],
    *,
    mock: Annotated[str, typer.Option(help="Where its mock data are, if there are any.")] = "",
    normaliser: Annotated[str, typer.Option(help="Kind of id, as in jobs.")] = "uscc",
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Sign schema, counts and terms of a data set into a file for banks; no row and no value of a row is in it.

    Where the policy has `publish_bins`, edges and levels of these columns are in it, charged to each bank once.
    """
    own = find_home(home, federation, party)
    config = load_node_config(own)
    identity, members = load_membership(own, config)
    fixed = None
    if config.policy.publish_bins and name in config.datasets:
        from veilscore.tasks.fixed_bins import charge_published  # noqa: PLC0415 - loads every protocol

        fixed = _fixed_bins(own, config, name, normaliser)
        banks = config.policy.banks or tuple(m.name for m in members.members if m.role == "bank")
        charge_published(own, config, name, fixed, banks)
    path = publish(own, config, name, identity, mock=mock, normaliser=normaliser, fixed=fixed)
    console().print(str(path), soft_wrap=True)


@app.command("show", epilog="Example: veilscore dataset show tax-main.json --home /srv/bank")
def show_dataset(
    file: Annotated[Path, typer.Argument(help="File that a holder published.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Verify a published data set by the owner's certificate in federation.yaml, and show it."""
    own = find_home(home, federation)
    _, members = load_membership(own, load_node_config(own))
    document = read_published(read_text(file, "published data set"), str(file))
    content = verify_published(document, members.member(document.content.owner).identity)
    out = console()
    out.print(
        f"{content.dataset} of {content.owner}, version {content.version[:16]}, about "
        f"{content.n_rows} rows; signature is right"
    )
    rows = ((c.name, c.kind, f"{c.missing_percent} %") for c in content.columns)
    out.print(table("Columns", ("column", "kind", "missing"), rows))
    if content.bins:
        bins = ((b.column, "levels" if b.levels else "edges", b.named or "one value, or nearly") for b in content.bins)
        out.print(table("Bins that points and knock-outs may be written for", ("column", "", "named"), bins))
    out.print(table("Terms", ("what", "value"), ((k, str(v)) for k, v in sorted(content.terms.items()))))
