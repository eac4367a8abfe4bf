"""`veilscore join`: found a federation across organisations, or join one, each on its own machine."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.compared import Compared, ask_compared, show_words
from veilscore.cli.display import console
from veilscore.cli.new_home import AskOption, DaysOption, PassphraseOption, new_home
from veilscore.cli.partner import PartnerOption
from veilscore.errors import ConfigError
from veilscore.fabric.process import running_pid
from veilscore.keys.identity import KEY_FILE, current_folder, make_current
from veilscore.keys.rotation import move as moved
from veilscore.node import joining
from veilscore.node.founding import new_key
from veilscore.terms.charter import unsigned
from veilscore.terms.federation import add_statements, load_federation, save_federation
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config

app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Found a federation across organisations, or join one, each on its own machine.\n\n"
        "Each operator has a home of its own; files go by mail, nothing in them is secret:\n\n"
        "1. each: veilscore join request /srv/tax --name tax --role holder --address tax.example.org:7101\n\n"
        "   and sends /srv/tax/tax.request.yaml to the coordinator's operator, who makes a request too\n\n"
        "2. coordinator: veilscore join propose /srv/coordinator *.request.yaml --federation pilot\n\n"
        "   and sends /srv/coordinator/pilot.proposal.yaml to all\n\n"
        "3. all, in one telephone call: each reads its own words aloud, the others compare\n\n"
        "4. each: veilscore join sign /srv/tax pilot.proposal.yaml\n\n"
        "   and sends /srv/tax/pilot.signed-by-tax.yaml back\n\n"
        "5. coordinator: veilscore join take /srv/coordinator pilot.signed-by-*.yaml\n\n"
        "   and sends /srv/coordinator/federation.yaml to all\n\n"
        "6. each: veilscore join take /srv/tax federation.yaml, then veilscore node start /srv/tax\n\n"
        "A node that joins later goes the same way from 1 to 6, without --federation; no node has to stop."
    ),
)

Home = Annotated[Path, typer.Argument(help="The node's home, on the machine where it will run.")]


@app.command(epilog="Example: veilscore join request /srv/tax --name tax --role holder --address tax.example.org:7101")
def request(
    home: Home,
    *,
    name: Annotated[str | None, typer.Option(help="Name that jobs and the federation use; of a new home.")] = None,
    role: Annotated[str | None, typer.Option(help="bank, holder or coordinator; of a new home.")] = None,
    address: Annotated[str, typer.Option(help="host:port where the other members reach this node.")],
    days: DaysOption = 365,
    passphrase_file: PassphraseOption = None,
    ask: AskOption = False,
    partner: PartnerOption = None,
    fresh: Annotated[bool, typer.Option("--new-key", help="Go on with a new key: the old one is lost.")] = False,
) -> None:
    """Make a home with its identity, unless it is there, and the request to join that others need of it.

    The key stays at home. Send the request to the coordinator's operator. With --new-key, after the loss of key and
    recovery key, send it to all: each names the new key by `veilscore keys replace`.
    """
    there = (home / "identity" / KEY_FILE).exists()
    if fresh and not there:
        raise ConfigError(f"{home} has no identity whose key could be lost; leave out --new-key")
    if not there:
        if name is None or role not in {"bank", "holder", "coordinator"}:
            raise ConfigError("a new home needs --name, and --role bank, holder or coordinator")
        identity = new_home(home, name, role, days, passphrase_file=passphrase_file, ask=ask, partner=partner)
    elif fresh:
        config = load_node_config(home)
        identity = new_key(config, home, days, recovery=True)
        make_current(config.identity, identity.fingerprint)
        console().print(f"Move {current_folder(config.identity) / 'recovery.pem'} to a safe place.")
    else:
        identity = joining.own_identity(home, load_node_config(home))
    if (name or identity.name, role or identity.role) != (identity.name, identity.role):
        raise ConfigError(f"{home} is the home of {identity.name} ({identity.role}); leave out --name and --role")
    path = joining.write_request(home, identity, address)
    console().print(f"written: {path!s}\nSend it on. When you are asked, read your words aloud:")
    show_words(identity.name, identity.role, identity.fingerprint)


@app.command(epilog="Example: veilscore join propose /srv/coordinator *.request.yaml --federation pilot")
def propose(
    home: Home,
    requests: Annotated[list[Path], typer.Argument(help="Requests of all nodes that are to join.")],
    *,
    federation: Annotated[str | None, typer.Option(help="Name of a new federation.")] = None,
    compared: Compared = None,
) -> None:
    """Put requests into one file of nodes, signed by this home's node, for all to sign.

    Asks whether the words of each new node were compared with its operator, by a telephone number that you knew before.
    """
    config = load_node_config(home)
    proposal, new = joining.propose(home, config, requests, federation)
    ask_compared(new, compared or [])
    path = home / f"{proposal.name}.proposal.yaml"
    save_federation(proposal, path)
    console().print(f"written: {path!s}\nSend it to all nodes; each signs it: `veilscore join sign HOME FILE`")


@app.command(epilog="Example: veilscore join sign /srv/tax pilot.proposal.yaml")
def sign(
    home: Home,
    proposal: Annotated[Path, typer.Argument(help="The file as the coordinator's operator sent it.")],
    *,
    compared: Compared = None,
) -> None:
    """Sign a file of nodes as this home's node, once the words of each new node were compared with its operator."""
    config = load_node_config(home)
    found = load_federation(proposal)
    ask_compared(joining.new_nodes(home, config, found), compared or [])
    path = joining.signed_file(home, config, found)
    save_federation(joining.sign(home, config, found), path)
    console().print(f"written: {path!s}\nSend it back to whoever sent the proposal.")


@app.command(epilog="Example: veilscore join take /srv/coordinator pilot.signed-by-*.yaml")
def take(
    home: Home,
    copies: Annotated[list[Path], typer.Argument(help="The file with all signatures, or copies that have them all.")],
) -> None:
    """Put the file that all nodes have signed into this home; a node that runs has new members within seconds."""
    config = load_node_config(home)
    federation = joining.take(home, config, [load_federation(path) for path in copies])
    names = ", ".join(m.name for m in federation.members)
    console().print(f"{config.federation}: federation {federation.name} of {names}, signed by all its nodes")
    if config.role == "coordinator":
        console().print("Send it to all other nodes; each takes it: `veilscore join take HOME federation.yaml`")
    if running_pid(home) is None:
        console().print(f"Start the node in any order: `veilscore node start {shlex.quote(str(home))}`")


@app.command(epilog="Example: veilscore join move /srv/tax --address tax.example.net:7101")
def move(
    home: Home, *, address: Annotated[str, typer.Option(help="host:port where the node is reached from now on.")]
) -> None:
    """Say where this home's node is reached from now on; it tells the others itself when it starts there.

    Stop the node first, and take the whole home to its new machine.
    """
    config = load_node_config(home)
    if running_pid(home) is not None:
        raise ConfigError(f"the node runs at its old address: `veilscore node stop {shlex.quote(str(home))}` first")
    own, federation = load_membership(home, config)
    statement = moved(own, address, federation.name, federation.next_date_ms())
    after = add_statements(config.federation, [statement])
    console().print(f"{own.name} is reached at {after.member(own.name).address}; start it there")
    if config.listen is not None:
        console().print(f"It binds {config.listen}, as `listen` in node.yaml says")


@app.command(epilog="Example: veilscore join show federation.yaml")
def show(federation: Annotated[Path, typer.Argument(help="federation.yaml, or a proposal.")]) -> None:
    """Show the nodes of a file with their addresses and words, and whose signatures are missing."""
    found = load_federation(federation)
    for member in found.members:
        now = found.member(member.name)
        show_words(now.name, now.role, now.fingerprint, "" if now.address is None else f" at {now.address}")
    missing = unsigned(found)
    console().print(f"not signed by {', '.join(missing)}" if missing else "signed by all its nodes")
