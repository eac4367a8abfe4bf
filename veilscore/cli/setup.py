"""Commands that set up: init, identity, federation, simulate."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from veilscore.cli.display import console, table
from veilscore.errors import ConfigError
from veilscore.keys.identity import (
    CERTIFICATE_FILE,
    KEY_FILE,
    RECOVERY_FILE,
    create_identity,
    current_folder,
    load_identity,
    parse_certificate,
)
from veilscore.node.founding import DataFiles, found_federation, write_node_config
from veilscore.terms.federation import Federation, load_federation, make_federation, member_of, save_federation
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.node_config import load_node_config
from veilscore.terms.settings import parse

identity_app = typer.Typer(no_args_is_help=True, help="Make or show a node's identity (key and certificate).")
federation_app = typer.Typer(no_args_is_help=True, help="Make or check federation.yaml.")


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    panel = "Set up"
    app.command(rich_help_panel=panel, epilog="Example: veilscore init trial --party bank:bank --party tax:holder")(
        init
    )
    app.command(rich_help_panel=panel, epilog="Example: veilscore simulate trial/data --firms 20000 --seed 1")(simulate)
    app.add_typer(identity_app, name="identity", rich_help_panel=panel)
    app.add_typer(federation_app, name="federation", rich_help_panel=panel)


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
    federation = found_federation(folder, parties, name=name, data=files, accept="manual" if approve else "auto")
    _show_federation(federation)
    console().print(
        f"Next: write a job, then `veilscore up {folder}` and `veilscore run JOB.yaml --federation {folder}`"
    )


def simulate(
    folder: Annotated[Path, typer.Argument(help="Where bank, tax and registry files and truth.json go.")],
    *,
    firms: Annotated[int, typer.Option(min=100, help="Number of firms, 10 000 to 1 000 000 are usual.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same data.")] = 1,
    parquet: Annotated[bool, typer.Option("--parquet", help="Parquet in place of CSV.")] = False,
) -> None:
    """Make realistic data of small firms for bank, tax bureau and business registry, with known true effects."""
    from veilscore.data.simulate import simulate_to_folder  # noqa: PLC0415 - loads DuckDB, slow

    truth = simulate_to_folder(folder, firms, seed, "parquet" if parquet else "csv")
    rows = [(key, json.dumps(value)) for key, value in truth.items() if key != "effects"]
    console().print(table(f"Simulated in {folder}", ("what", "value"), rows))


@identity_app.command(epilog="Example: veilscore identity create /srv/tax --name tax --role holder")
def create(
    home: Annotated[Path, typer.Argument(help="The node's home; identity/ and node.yaml are made in it.")],
    *,
    name: Annotated[str, typer.Option(help="Name that jobs and the federation file use.")],
    role: Annotated[str, typer.Option(help="bank, holder, coordinator or operator.")],
    days: Annotated[float, typer.Option(min=1, help="Validity of the certificate.")] = 365,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Encrypt the key with the first line of this file (mode 0600).")
    ] = None,
    ask: Annotated[bool, typer.Option("--ask-passphrase", help="Encrypt the key with a passphrase you type.")] = False,
) -> None:
    """Make a key and a certificate that peers pin; the key never leaves the folder.

    The key is encrypted if there is a passphrase: by option, VEILSCORE_KEY_PASSPHRASE_FILE, VEILSCORE_KEY_PASSPHRASE,
    or the `key` section of a node.yaml that is there already (programs of a key service). Move identity/recovery.pem
    to a safe place. Send only identity/certificate.pem to the other members.
    """
    key = _key_section(passphrase_file, ask=ask)
    written = (home / "node.yaml").exists()
    if written and key is not None:
        raise ConfigError(f"{home / 'node.yaml'} exists: name the key source in its `key` section, without the option")
    config = load_node_config(home).key if written else parse(KeyConfig, key or {}, "key source")
    source, folder = config.open(home), home / "identity"
    identity = create_identity(folder, name, role, days, passphrase=lambda: source.new_secret(folder), recovery=True)
    if not written:
        write_node_config(home, name, role, key=key)
    if b"ENCRYPTED" not in (folder / KEY_FILE).read_bytes():
        console().print(f"[yellow]warning[/yellow] the key is not encrypted; `veilscore keys check {home}` says more")
    console().print(f"Move {folder / RECOVERY_FILE} to a safe place: it revokes this identity if the key is lost.")
    console().print(f"{identity.name} ({identity.role}), fingerprint {identity.fingerprint}")
    console().print(f"Send {home / 'identity' / CERTIFICATE_FILE} to the other members, and read them the fingerprint.")


def _key_section(passphrase_file: Path | None, *, ask: bool) -> dict[str, str] | None:
    if ask and passphrase_file is not None:
        raise ConfigError("give --passphrase-file or --ask-passphrase, not both")
    if ask:
        return {"source": "prompt"}
    return None if passphrase_file is None else {"source": "file", "path": str(passphrase_file.resolve())}


@identity_app.command(epilog="Example: veilscore identity show /srv/tax")
def show(home: Annotated[Path, typer.Argument(help="A node's home.")]) -> None:
    """Show name, role, fingerprint and validity; read the fingerprint to the other members by telephone."""
    folder = current_folder(home / "identity")
    config = load_node_config(home).key if (home / "node.yaml").exists() else KeyConfig()
    certificate = load_identity(folder, passphrase=lambda: config.open(home).secret(folder)).certificate
    left = certificate.not_after - dt.datetime.now(dt.UTC)
    rows = [
        ("name", certificate.name),
        ("role", certificate.role),
        ("fingerprint", certificate.fingerprint),
        ("valid until", f"{certificate.not_after:%Y-%m-%d %H:%M} UTC ({left.days} days)"),
    ]
    console().print(table(str(home), ("what", "value"), rows))


@federation_app.command(
    epilog="Example: veilscore federation add federation.yaml tax.pem --address tax.example.org:7101"
)
def add(
    federation: Annotated[Path, typer.Argument(help="federation.yaml; made if absent.")],
    certificate: Annotated[Path, typer.Argument(help="The member's certificate.pem.")],
    *,
    address: Annotated[str | None, typer.Option(help="host:port where the member listens.")] = None,
) -> None:
    """Add a member by its certificate.

    Until coordinator and bank are in, the file is a draft: it is kept beside as federation.yaml.draft.
    """
    try:
        member = member_of(parse_certificate(certificate.read_bytes()), address)
    except OSError as error:
        raise ConfigError(f"certificate {certificate} cannot be read: {error.strerror}") from error
    draft = federation.with_name(federation.name + ".draft")
    members = [member]
    if federation.exists():
        members = [*load_federation(federation).members, member]
    elif draft.exists():
        kept = yaml.safe_load(draft.read_text(encoding="utf-8"))
        members = [*(member_of(parse_certificate(m["certificate"].encode()), m["address"]) for m in kept), member]
    roles = {m.role for m in members}
    if {"bank", "coordinator"} <= roles:
        save_federation(make_federation(federation.resolve().parent.name or "federation", members), federation)
        draft.unlink(missing_ok=True)
        _show_federation(load_federation(federation))
        return
    content = [{"certificate": m.certificate, "address": m.address} for m in members]
    draft.write_text(yaml.safe_dump(content), encoding="utf-8")
    console().print(f"{member.name} kept in {draft}; still missing: {', '.join({'bank', 'coordinator'} - roles)}")


@federation_app.command(epilog="Example: veilscore federation check federation.yaml")
def check(federation: Annotated[Path, typer.Argument(help="federation.yaml")]) -> None:
    """Check the file and show fingerprints; compare them with the other members' copies."""
    _show_federation(load_federation(federation))


def _show_federation(federation: Federation) -> None:
    rows = [(m.name, m.role, m.address or "", m.fingerprint) for m in federation.members]
    console().print(table(f"Federation {federation.name}", ("member", "role", "address", "fingerprint"), rows))
