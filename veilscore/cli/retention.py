"""`veilscore retention`: removes what is older than the rules say."""

import typer

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.terms.node_config import load_node_config

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Remove what a node has kept for long enough (`retention` in node.yaml and bank.yaml)."""


@app.command("show", epilog="Example: veilscore retention show --home /srv/bank")
def show(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """Show which files are too old; nothing is removed."""
    from veilscore.node.retention import too_old  # noqa: PLC0415 - loads the log's own modules

    own, out = find_home(home, federation, party).resolve(), console()
    rows = [(kind, str(path)) for kind, path in too_old(own, load_node_config(own))]
    out.print(table("Too old", ("kind", "file"), rows) if rows else "No file is too old.")


@app.command("run", epilog="Example: veilscore retention run --home /srv/bank")
def run(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """Remove what is too old, and forget firms whose time is over; for a timer, once a day. The node may run."""
    from veilscore.node.retention import sweep  # noqa: PLC0415 - loads the log's own modules

    own, out = find_home(home, federation, party).resolve(), console()
    done = sweep(own, load_node_config(own))
    said = [f"{n:,} {kind}" for kind, n in sorted(done.gone.items())]
    said += [f"{done.firms:,} firms whose time was over"] if done.firms else []
    out.print(f"removed: {', '.join(said)}" if said else "nothing is too old", soft_wrap=True)
    for digest in done.unfinished:
        out.print(
            f"cut off: a firm that the log calls {digest}; say `veilscore firm forget` for it again", soft_wrap=True
        )
    if done.unfinished:
        raise typer.Exit(1)
