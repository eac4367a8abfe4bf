"""Sets up a whole federation on one machine, for trials: identities, federation.yaml and a home for each node.

In earnest each organisation makes its own home on its own machine (`make_home`) and sends only a request with its
certificate (joining.py).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from veilscore.errors import ConfigError, StateError
from veilscore.files.private import private_folder
from veilscore.files.store import write_text
from veilscore.keys.identity import Identity, create_identity
from veilscore.release.issuer import Issuer
from veilscore.terms.charter import signed
from veilscore.terms.federation import Federation, load_federation, make_federation, member_of, save_federation
from veilscore.terms.key_settings import KeyConfig
from veilscore.terms.node_config import NodeConfig, load_node_config
from veilscore.terms.policy import Partner, utc_today
from veilscore.terms.settings import parse

PORTAL = "consent-portal"  # a trial's own issuer of consents
PORTS = range(20_000, 28_000)  # below those that outgoing connections take
_HEADER = "# Configuration of one node; `veilscore explain node` explains every key. Unknown keys are refused.\n"
_EXAMPLE = """
# Catalogue: data sets that jobs may name; other parties never see more than the name.
# datasets:
#   main:
#     path: /data/firms.csv        # or url: postgresql+psycopg://user@host/db, table: firms, password_env: DB_PASSWORD
#     id_column: uscc
#     label_column: default        # bank only
"""


@dataclass(frozen=True)
class DataFiles:
    """Says where the parties' files are (FOLDER/<party>.csv or .parquet) and what their columns mean."""

    folder: Path
    id_column: str = "uscc"
    label_column: str = "default"
    date_column: str = "observation_date"


def found_federation(
    folder: Path,
    parties: dict[str, str],
    *,
    coordinator: str = "coordinator",
    name: str = "trial",
    host: str = "127.0.0.1",
    data: DataFiles | None = None,
    accept: str = "auto",
    exact: bool = False,
    partner: Partner = "standard",
) -> Federation:
    """Make one home for each party and the coordinator under `folder`.

    parties : name -> role (bank or holder).
    data : puts each party's file into its catalogue as `main`.
    accept : auto (trials) or manual (a person approves each job at each node).
    partner : preset of the holders' policies, how much they tell besides what every job does.
    exact : whether the holders agree to jobs in exact mode for a year, which ends the promise for that data.
    Raises ConfigError on a wrong name or role, no bank, or a home that exists.
    """
    for party, role in parties.items():
        if role not in {"bank", "holder"}:
            raise ConfigError(f"{party}: role {role!r} is unknown; write NAME:bank or NAME:holder")
    roles = {**parties, coordinator: "coordinator"}
    if len(roles) != len(parties) + 1:
        raise ConfigError(f"a party has the coordinator's name, {coordinator}")
    banks = [party for party, role in parties.items() if role == "bank"]
    if not banks:
        raise ConfigError("a federation needs at least one bank (--party bank:bank)")
    for member in (*roles, PORTAL):
        if (folder / member).exists() or (member == PORTAL and member in roles):
            raise ConfigError(f"{folder / member} exists already; choose another folder or remove it")
    datasets = {} if data is None else {party: _dataset(data, party, role) for party, role in parties.items()}
    ports = free_ports(len(roles), host)  # from here on files are made: what can be wrong has been looked at
    identities = []
    for (member, role), port in zip(roles.items(), ports, strict=True):
        identity = create_identity(folder / member / "identity", member, role, recovery=True)
        identities.append((identity, f"{host}:{port}"))
    federation = make_federation(name, [member_of(one.certificate, address) for one, address in identities])
    for identity, _ in identities:
        federation = signed(federation, identity)
    portal = Issuer.create(folder / PORTAL, PORTAL)
    until = utc_today() + dt.timedelta(days=365)
    holders = {
        "partner": partner,
        "consent_issuers": {portal.name: portal.public_key},
        **({"exact_for": dict.fromkeys(banks, until)} if exact else {}),
    }
    for member, role in roles.items():
        save_federation(federation, folder / member / "federation.yaml")
        policy = {"accept": accept, **(holders if role == "holder" else {})}
        write_node_config(folder / member, member, role, dataset=datasets.get(member), policy=policy)
    save_federation(federation, folder / "federation.yaml")
    return federation


def make_home(
    home: Path,
    name: str,
    role: str,
    days: float = 365,
    *,
    key: dict[str, str] | None = None,
    partner: Partner = "standard",
) -> Identity:
    """Make an identity with a recovery key, and node.yaml unless there is one, and return the identity.

    key : the `key` section of node.yaml; one that is there names its own, and then it must be None.
    """
    written = (home / "node.yaml").exists()
    if written and key is not None:
        raise ConfigError(f"{home / 'node.yaml'} exists: name the key source in its `key` section, without the option")
    if written and (config := load_node_config(home)) and (config.name, config.role) != (name, role):
        raise ConfigError(f"{home / 'node.yaml'} is of {config.name} ({config.role}), not of {name} ({role})")
    source = (load_node_config(home).key if written else parse(KeyConfig, key or {}, "key source")).open(home)
    folder = home / "identity"
    identity = create_identity(folder, name, role, days, passphrase=lambda: source.new_secret(folder), recovery=True)
    if not written:
        policy = {"accept": "manual", "partner": partner} if role == "holder" else None
        write_node_config(home, name, role, key=key, policy=policy)
    return identity


def new_key(config: NodeConfig, home: Path, days: float, *, recovery: str | bool) -> Identity:
    """Make a key in a folder of its own under identity/, encrypted as the home says and not in use yet.

    recovery : what its certificate commits to, as `create_identity` takes it.
    """
    source = config.key.open(home)
    draft = config.identity / "new"
    if draft.exists():
        raise ConfigError(f"{draft} is left from a rotation that was broken off: remove it and try again")
    identity = create_identity(
        draft, config.name, config.role, days, passphrase=lambda: source.new_secret(draft), recovery=recovery
    )
    draft.rename(config.identity / identity.fingerprint[:16])
    return identity


def write_node_config(
    home: Path,
    name: str,
    role: str,
    *,
    dataset: dict[str, str] | None = None,
    key: dict[str, str] | None = None,
    policy: Mapping[str, object] | None = None,
) -> NodeConfig:
    """Write node.yaml of a new home and return what it says; `dataset` becomes its `main`."""
    content: dict[str, object] = {"name": name, "role": role}
    if key is not None:
        content["key"] = key
    if role != "coordinator":
        content["policy"] = {"accept": "manual"} if policy is None else dict(policy)
        if dataset is not None:
            content["datasets"] = {"main": dataset}
    config = parse(NodeConfig, content, str(home / "node.yaml"))
    text = _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if role != "coordinator" and "datasets" not in content:
        text += _EXAMPLE
    try:
        private_folder(home)
    except OSError as error:
        raise StateError(f"{home} cannot be made: {error.strerror}") from error
    write_text(home / "node.yaml", text)
    return config


def _dataset(data: DataFiles, party: str, role: str) -> dict[str, str] | None:
    """Return the entry of a party's file; ConfigError where it lacks a column that the entry names."""
    from veilscore.data.ingest import list_columns  # noqa: PLC0415 - loads duckdb

    for suffix in (".csv", ".parquet"):
        path = (data.folder / f"{party}{suffix}").resolve()
        if not path.is_file():
            continue
        entry = {"path": str(path), "id_column": data.id_column}
        if role == "bank":
            entry["label_column"] = data.label_column
        columns = list_columns(path)
        for option, column in (("--id-column", data.id_column), ("--label-column", entry.get("label_column"))):
            if column is not None and column not in columns:
                few = ", ".join(sorted(columns)[:20]) + (" ..." if len(columns) > 20 else "")
                raise ConfigError(f"{path} has no column {column!r} (it has {few}); name another with {option}")
        if suffix == ".csv" and data.date_column in columns:
            entry["date_column"] = data.date_column
        return entry
    return None


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that are free now, all different."""
    found: list[int] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    start = secrets.randbelow(len(PORTS))
    for port in (*PORTS[start:], *PORTS[:start]):
        with socket.socket(family) as listener, contextlib.suppress(OSError):
            listener.bind((host, port))
            found.append(port)
        if len(found) == count:
            return found
    between = f"between {PORTS.start} and {PORTS.stop}"
    raise ConfigError(f"no {count} free ports {between} on {host}; is it an address of this machine?")


def homes_in(folder: Path) -> dict[str, Path]:
    """Return the homes of a local federation, coordinator first; ConfigError if there is none."""
    if not (folder / "federation.yaml").is_file():
        raise ConfigError(
            f"{folder} has no federation.yaml; make a local federation with `veilscore init {shlex.quote(str(folder))}`"
        )
    federation = load_federation(folder / "federation.yaml")
    names = [federation.coordinator.name, *(m.name for m in federation.members if m.role in {"bank", "holder"})]
    homes = {name: folder / name for name in names if (folder / name / "node.yaml").is_file()}
    for home in homes.values():
        load_node_config(home)
    return homes
