"""Federations: `veilscore init` makes one for a trial, `veilscore federation` keeps the file of a real one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
import yaml

from veilscore.cli.display import console, styled, table
from veilscore.cli.files import read_bytes, write_bytes
from veilscore.cli.partner import PartnerOption, chosen_partner
from veilscore.errors import ConfigError
from veilscore.keys.identity import parse_certificate
from veilscore.node.founding import DataFiles, found_federation
from veilscore.terms.federation import (
    Federation,
    Member,
    change_federation,
    load_federation,
    make_federation,
    member_of,
    save_federation,
)
from veilscore.terms.node_config import load_node_config
from veilscore.terms.settings import Strict, parse, parse_yaml, read_text


class _Drafted(Strict):
    certificate: str
    address: str | None


class _Draft(Strict):
    name: str | None = None
    members: tuple[_Drafted, ...]


app = typer.Typer()
federation_app = typer.Typer(no_args_is_help=True)
app.add_typer(federation_app, name="federation")


@app.command(epilog="Example: veilscore init trial --party bank:bank --party tax:holder")
def init(
    folder: Annotated[Path, typer.Argument(help="New folder; one home per node is made in it.")],
    party: Annotated[list[str], typer.Option(help="NAME:bank or NAME:holder; once for each party.")],
    *,
    data: Annotated[
        Path | None, typer.Option(help="Folder with NAME.csv or NAME.parquet per party: data set `main`.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="Id column in those files.")] = "uscc",
    label_column: Annotated[str, typer.Option(help="Label column in the bank's file (1: bad).")] = "default",
    name: Annotated[str, typer.Option(help="Name of the federation.")] = "trial",
    approve: Annotated[bool, typer.Option("--approve", help="A person approves each job at each party.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="The holders agree to exact jobs for a year, for data that is nobody's.")
    ] = False,
    partner: PartnerOption = None,
) -> None:
    """Set up a whole federation on this machine, for trials.

    Makes an identity, node.yaml and federation.yaml for each party and the coordinator, on free ports.
    Between organisations each makes its own: see `veilscore identity create`.
    """
    parties: dict[str, str] = {}
    for text in party:
        party_name, _, role = text.partition(":")
        if party_name in parties:
            raise ConfigError(f"party {party_name} stands twice")
        parties[party_name] = role or "holder"
    if data is not None and not data.is_dir():
        raise ConfigError(f"data folder not found: {data}")
    files = None if data is None else DataFiles(data, id_column, label_column)
    federation = found_federation(
        folder,
        parties,
        name=name,
        data=files,
        accept="manual" if approve else "auto",
        exact=exact,
        partner=chosen_partner(partner),
    )
    _show_federation(federation)
    bare = [p for p in parties if files is not None and not load_node_config(folder / p).datasets]
    if bare:
        console().print(
            styled("[yellow]no data set[/yellow] for {}: no NAME.csv or NAME.parquet in {}", ", ".join(bare), data)
        )
    quoted = shlex.quote(str(folder))
    console().print(
        f"Next: write a job, then `veilscore up {quoted}` and `veilscore job run JOB.yaml --federation {quoted}`"
    )


@federation_app.command(
    epilog="Example: veilscore federation add federation.yaml tax.pem --address tax.example.org:7101"
)
def add(
    federation: Annotated[Path, typer.Argument(help="federation.yaml; made if absent.")],
    certificate: Annotated[Path, typer.Argument(help="The member's certificate.pem.")],
    *,
    address: Annotated[str | None, typer.Option(help="host:port where the member listens.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the federation, the same in every member's file; default federation.")
    ] = None,
) -> None:
    """Add a person by its certificate; nodes too, to a file that no node has signed yet.

    Until coordinator and bank are in, the file is a draft: it is kept beside as federation.yaml.draft. A node starts on
    a file that all nodes have signed: between organisations see `veilscore join`.
    """
    member = member_of(parse_certificate(read_bytes(certificate)), address)
    if not federation.parent.is_dir():
        raise ConfigError(f"folder {federation.parent} does not exist; make it, or name another place for the file")
    draft = federation.with_name(federation.name + ".draft")
    members, named = [member], None
    if federation.exists():  # all else that it holds stays, and running nodes may write to it at the same time
        before = load_federation(federation)
        if name not in {None, before.name}:
            raise ConfigError(_named_otherwise(federation, before.name, name))
        _show_federation(change_federation(federation, lambda kept: _with_member(kept, member)))
        return
    if draft.exists():
        kept = parse(_Draft, parse_yaml(read_text(draft, "draft"), str(draft)), str(draft))
        members = [*(member_of(parse_certificate(m.certificate.encode()), m.address) for m in kept.members), member]
        named = kept.name
    if name and named and name != named:
        raise ConfigError(_named_otherwise(federation, named, name))
    name = name or named
    roles = {m.role for m in members}
    if {"bank", "coordinator"} <= roles:
        save_federation(make_federation(name or "federation", members), federation)
        draft.unlink(missing_ok=True)
        _show_federation(load_federation(federation))
        return
    content = {"name": name, "members": [{"certificate": m.certificate, "address": m.address} for m in members]}
    write_bytes(draft, yaml.safe_dump(content).encode())
    console().print(f"{member.name} kept in {draft}; still missing: {', '.join({'bank', 'coordinator'} - roles)}")


@federation_app.command(epilog="Example: veilscore federation check federation.yaml")
def check(federation: Annotated[Path, typer.Argument(help="federation.yaml")]) -> None:
    """Check the file and show fingerprints; compare them with the other members' copies."""
    _show_federation(load_federation(federation))


def _named_otherwise(path: Path, kept: str, given: str | None) -> str:
    return f"{path} is of federation {kept}, not {given}; every member's file has the same name"


def _with_member(before: Federation, member: Member) -> Federation:
    """Return a federation with one more person, or node where none has signed; signatures and statements stay."""
    if member.role == "operator" or before.signatures:
        return before.with_people([member])
    return make_federation(before.name, [*before.members, member]).with_statements(before.statements)


def _show_federation(federation: Federation) -> None:
    rows = [(m.name, m.role, m.address or "", m.fingerprint) for m in federation.members]
    console().print(table(f"Federation {federation.name}", ("member", "role", "address", "fingerprint"), rows))
