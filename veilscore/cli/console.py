"""`veilscore console`: pages of a node for its own people, in a browser; who may enter."""

import time
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console as terminal
from veilscore.cli.display import moment, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home, identity_of
from veilscore.errors import ConfigError
from veilscore.files.extras import missing_of

app = typer.Typer(
    invoke_without_command=True, epilog="Example: veilscore console --home /srv/tax", subcommand_metavar="[COMMAND]"
)
PersonOption = Annotated[str, typer.Option("--person", help="Who, as `people` in node.yaml has the name.")]


def _check_installed() -> None:
    missing = missing_of("console")
    if missing:
        raise ConfigError(f"the console needs {', '.join(missing)}: run `pip install 'veilscore[console]'`")


@app.callback()
def serve(
    context: typer.Context,
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Serve a node's pages to its own people, over TLS, until it is stopped."""
    _check_installed()
    if context.invoked_subcommand is not None:
        return
    from veilscore.console.serve import RunningConsole, serve_console  # noqa: PLC0415 - loads every protocol

    own = find_home(home, federation, party)

    def told(running: RunningConsole) -> None:
        out = terminal()
        out.print(f"console of {running.home.name}: {running.desk.origin}", soft_wrap=True)
        out.print(f"its certificate, for browsers to trust: {running.certificate}", soft_wrap=True)
        out.print("let somebody in: `veilscore console invite --person NAME`; stop with Ctrl-C", soft_wrap=True)

    serve_console(own, told)


@app.command("invite", epilog="Example: veilscore console invite --person anna --home /srv/tax")
def invite(
    *,
    person: PersonOption,
    hours: Annotated[float, typer.Option(min=0.1, max=168, help="How long the link works.")] = 24,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Print a link by which a person makes a passkey, once; whoever has the link is that person."""
    from veilscore.console.serve import invitation  # noqa: PLC0415 - loads every protocol

    own: Path = find_home(home, federation, party)
    link = invitation(own, person, hours)
    terminal().print(link, soft_wrap=True, highlight=False)
    terminal(stderr=True).print(
        f"for {person}, once, until {moment(time.time() + hours * 3600)}: hand it over on a safe way", soft_wrap=True
    )


@app.command("vouch", epilog="Example: veilscore console vouch 5f0c11d2 --as /home/anna --home /srv/bank")
def vouch(
    passkey: Annotated[str, typer.Argument(help="How its id begins, as your own page in the console shows it.")],
    *,
    person: Annotated[Path, typer.Option("--as", help="Your own home: its identity signs.")],
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Vouch with your own key for a passkey of yours; from then on it may sign words of four eyes in the browser."""
    from veilscore.console.passkeys import vouch_for_passkey  # noqa: PLC0415 - loads what reads passkeys
    from veilscore.console.store import ConsoleStore  # noqa: PLC0415
    from veilscore.terms.federation import load_federation  # noqa: PLC0415
    from veilscore.terms.node_config import load_node_config  # noqa: PLC0415

    own = find_home(home, federation, party)
    node, store = load_node_config(own), ConsoleStore(own)
    identity = identity_of(person)
    try:
        found = vouch_for_passkey(store, node.name, identity, load_federation(node.federation), passkey)
        store.note("(command line)", "vouch for a passkey", identity.name, "done")
    finally:
        store.close()
    terminal().print(f"{identity.name} vouches for passkey {found.credential.hex()[:16]} at {node.name}")


@app.command("forget", epilog="Example: veilscore console forget --person anna --home /srv/tax")
def forget(
    *,
    person: PersonOption,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Remove a person's passkeys, links and sessions at once, as when a device was lost."""
    from veilscore.console.store import ConsoleStore  # noqa: PLC0415 - loads what reads databases

    store = ConsoleStore(find_home(home, federation, party))
    try:
        count = store.forget(person, "(command line)")
    finally:
        store.close()
    terminal().print(f"{count} passkeys of {person} removed; the role stays until node.yaml says otherwise")


@app.command("people", epilog="Example: veilscore console people --home /srv/tax")
def people(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """List who may enter, with roles, passkeys and open sessions."""
    from veilscore.console.home import ConsoleHome, people_of  # noqa: PLC0415 - loads what reads homes
    from veilscore.console.store import ConsoleStore  # noqa: PLC0415

    own = ConsoleHome(find_home(home, federation, party))
    store = ConsoleStore(own.path)
    try:
        found = people_of(own, store)
    finally:
        store.close()
    rows = [
        (name, ", ".join(roles), passkeys, sessions, moment(used) if used else "")
        for name, roles, passkeys, used, sessions in found
    ]
    terminal().print(
        table(f"People of {own.name}", ("person", "roles", "passkeys", "sessions", "passkey last used"), rows)
    )
    if not found:
        terminal().print(styled("nobody: name people and roles under `people` in {}", str(own.path / "node.yaml")))
