"""`veilscore keys`: replace, revoke and look after keys. Running nodes act on it within seconds."""

import datetime as dt
import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.compared import Compared, ask_compared
from veilscore.cli.display import console, moment, styled, table
from veilscore.errors import ConfigError
from veilscore.keys.identity import (
    KEY_FILE,
    RECOVERY_FILE,
    current_folder,
    load_recovery_key,
)
from veilscore.keys.key_history import PinnedKey
from veilscore.keys.rotation import DAY_S, MAX_OVERLAP_S, KeyStatement, revoke_by_recovery, revoke_by_vote, rotate
from veilscore.node.founding import new_key
from veilscore.node.joining import read_request
from veilscore.terms.federation import Federation, add_statements, load_federation, timely
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import NodeConfig, load_node_config

app = typer.Typer(no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="The node's (or person's) home.")]
_SOON_DAYS = 30


@app.command(epilog="Example: veilscore keys show /srv/tax")
def show(home: Home) -> None:
    """Show every member's keys as this home knows them, and the digest to compare with the others' by telephone."""
    federation = load_federation(load_node_config(home).federation)
    now_s = time.time()
    rows = [
        (name, key.certificate.fingerprint, _state(key, now_s), f"{key.certificate.not_after:%Y-%m-%d}")
        for name, keys in federation.history.keys.items()
        for key in keys
    ]
    console().print(table(f"Keys of {federation.name}", ("member", "fingerprint", "state", "expires"), rows))
    console().print(f"{len(federation.statements)} statements, digest {federation.history.digest}")
    for statement, reason in federation.history.ignored:
        console().print(f"ignored: {statement.kind} of {statement.member}: {reason}")


@app.command(epilog="Example: veilscore keys check /srv/tax")
def check(home: Home) -> None:
    """Look at how this home keeps its key: encryption, recovery key, expiry. Exit code 1 if something should change."""
    config = load_node_config(home)
    warnings = _warnings(config, home)
    for text in warnings:
        console().print(styled("[yellow]warning[/yellow] {}", text))
    if warnings:
        raise typer.Exit(1)
    console().print("the key is encrypted, the recovery key is kept elsewhere, nothing expires soon")


@app.command("rotate", epilog="Example: veilscore keys rotate /srv/tax --overlap-days 7")
def rotate_key(
    home: Home,
    *,
    overlap_days: Annotated[
        float, typer.Option(min=0, max=MAX_OVERLAP_S / DAY_S, help="How long the old key stays accepted.")
    ] = 7,
    days: Annotated[float, typer.Option(min=1, help="Validity of the new certificate.")] = 365,
) -> None:
    """Make a new key for this home, named by the old one; its node goes over once all members know it."""
    config = load_node_config(home)
    old, federation = load_membership(home, config)
    if federation.member(old.name).fingerprint != old.fingerprint:
        raise ConfigError(f"{old.name} has a successor of this key already that its node has not gone over to yet")
    new = new_key(config, home, days, recovery=old.certificate.recovery or False)
    statement = rotate(old, new, federation.name, int(overlap_days * DAY_S), federation.next_date_ms())
    _publish(config, statement)
    console().print(
        f"new key of {new.name}: {new.fingerprint}; the old one is accepted until {moment(statement.ends_s)}"
    )


@app.command(epilog="Example: veilscore keys revoke /srv/bank tax")
def revoke(
    home: Home,
    member: Annotated[str, typer.Argument(help="Whose key.")],
    *,
    fingerprint: Annotated[str, typer.Option(help="How the key's fingerprint begins; default: all it has.")] = "",
) -> None:
    """Ask, as this node, for another member's key to be revoked; it is once a majority of the other nodes has asked."""
    config = load_node_config(home)
    own, federation = load_membership(home, config)
    chosen = _choose(federation, member, fingerprint)
    if own.name == member or own.role == "operator":
        raise ConfigError("a node revokes another's key; for one's own use `veilscore keys recover`")
    key = federation.history.find(chosen)
    if key is not None and key.revoked_s is not None:
        raise ConfigError(f"key {chosen[:16]}... of {member} is revoked already, by {key.reason}")
    after = _publish(config, revoke_by_vote(own, member, chosen, federation.name, federation.next_date_ms()))
    missing = after.history.missing_votes(member, chosen)
    outcome = "revoked" if not missing else f"{missing} more node{'s' if missing > 1 else ''} must ask for it"
    console().print(f"key {chosen[:16]}... of {member}: {outcome}")


@app.command(epilog="Example: veilscore keys replace /srv/bank tax.request.yaml")
def replace(
    home: Home,
    request: Annotated[Path, typer.Argument(help="The member's request with its new key (`veilscore join request`).")],
    *,
    fingerprint: Annotated[str, typer.Option(help="How the lost key's fingerprint begins; default: all.")] = "",
    compared: Compared = None,
) -> None:
    """Name, as this node, another member's new key in place of one that is lost, recovery key and all.

    The lost key is revoked once a majority of the other nodes has, the new one goes on once all of them have.
    """
    config = load_node_config(home)
    own, federation = load_membership(home, config)
    member = read_request(request)
    if own.name == member.name or own.role == "operator":
        raise ConfigError("the other nodes name a new key; for one's own use `veilscore keys recover` or `rotate`")
    chosen = _choose(federation, member.name, fingerprint)
    ask_compared([member], compared or [])
    date_ms = federation.next_date_ms()
    vote = revoke_by_vote(own, member.name, chosen, federation.name, date_ms, member.identity)
    after = _publish(config, vote)
    missing = after.history.missing_names(member.name, chosen, member.fingerprint)
    if missing:
        console().print(f"named here; {', '.join(missing)} must name it too: `veilscore keys replace`")
    else:
        console().print(f"{member.name} goes on with key {member.fingerprint[:16]}...")
    console().print(f"Send {config.federation} to {member.name}, which takes it: `veilscore keys take HOME FILE`")


@app.command(epilog="Example: veilscore keys recover /srv/tax /media/safe/recovery.pem")
def recover(
    home: Home,
    recovery: Annotated[Path, typer.Argument(help="The recovery key that was made with the identity.")],
    *,
    fingerprint: Annotated[str, typer.Option(help="How the lost key's fingerprint begins; default: all.")] = "",
    days: Annotated[float, typer.Option(min=1, help="Validity of the new certificate.")] = 365,
) -> None:
    """Revoke this home's own key with its recovery key, and go on with a new one."""
    config = load_node_config(home)
    federation = load_federation(config.federation)
    chosen = _choose(federation, config.name, fingerprint)
    source = config.key.open(home)
    key = load_recovery_key(recovery, passphrase=lambda: source.secret(config.identity))
    lost = federation.history.find(chosen)
    new = new_key(config, home, days, recovery=(lost and lost.certificate.recovery) or False)
    statement = revoke_by_recovery(key, config.name, chosen, federation.name, federation.next_date_ms(), new)
    _publish(config, statement)
    console().print(f"key {chosen[:16]}... of {config.name} revoked; new key {new.fingerprint}")
    console().print("If no node of this home runs, let another member `veilscore keys take` this federation.yaml.")


@app.command(epilog="Example: veilscore keys take /srv/bank federation-of-tax.yaml")
def take(home: Home, other: Annotated[Path, typer.Argument(help="Another member's federation.yaml.")]) -> None:
    """Take in the key statements of another member's file; each is checked by its own signatures."""
    config = load_node_config(home)
    before = load_federation(config.federation)
    after = add_statements(config.federation, timely(load_federation(other)).statements)
    console().print(f"{len(after.statements) - len(before.statements)} new, digest {after.history.digest}")


def _publish(config: NodeConfig, statement: KeyStatement) -> Federation:
    after = add_statements(config.federation, [statement])
    if statement.order not in {s.order for s in after.statements}:
        every = (*after.statements, statement)
        ignored = Federation(name=after.name, members=after.members, statements=every).history.ignored
        raise ConfigError(f"the statement has no effect: {'; '.join(reason for _, reason in ignored)}")
    return after


def _choose(federation: Federation, member: str, beginning: str) -> str:
    """Return the key the user means: by default the oldest that is accepted, since its successors fall with it."""
    newest = federation.member(member).fingerprint
    accepted = federation.history.accepted(member, time.time())
    wanted = beginning or (accepted[-1].fingerprint if accepted else newest)
    found = [k.certificate.fingerprint for k in federation.history.keys[member]]
    found = [fingerprint for fingerprint in found if fingerprint.startswith(wanted)]
    if len(found) != 1:
        raise ConfigError(
            f"{member} has {len(found) or 'no'} keys that begin with {beginning!r}; see `veilscore keys show`"
        )
    return found[0]


def _warnings(config: NodeConfig, home: Path) -> list[str]:
    folder = current_folder(config.identity)
    try:
        encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in (folder / KEY_FILE).read_bytes()
    except OSError as error:
        raise ConfigError(f"{folder / KEY_FILE} cannot be read: {error.strerror}") from error
    texts = []
    if not encrypted:
        texts.append(
            f"{folder / KEY_FILE} is not encrypted: name a key source in node.yaml, then "
            f"`veilscore keys rotate {shlex.quote(str(home))}`"
        )
    if (config.identity / RECOVERY_FILE).exists():
        texts.append(f"{config.identity / RECOVERY_FILE} lies beside the key that it revokes: move it to a safe place")
    certificate = load_membership(home, config)[0].certificate
    left = certificate.not_after - dt.datetime.now(dt.UTC)
    if left < dt.timedelta(days=_SOON_DAYS):
        texts.append(f"the certificate expires in {left.days} days: `veilscore keys rotate {shlex.quote(str(home))}`")
    if certificate.recovery is None:
        texts.append("no recovery key: if the key is lost, a majority of the other nodes must revoke it")
    return texts


def _state(key: PinnedKey, now_s: float) -> str:
    if key.refusal(now_s) is not None:
        return f"revoked {moment(key.revoked_s)} by {key.reason}" if key.revoked_s is not None else "replaced"
    return "accepted" if key.retired_s is None else f"accepted until {moment(key.retired_s)}"
