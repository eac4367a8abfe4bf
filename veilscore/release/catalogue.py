"""What a holder publishes of a data set: a signed document with its schema, counts and terms, never a row.

The document goes to banks by any way (mail, a shared folder) and is verified against the owner's pinned certificate.
Counts are rounded, names of columns are told only where the policy publishes them, and the version is the salted
digest that jobs are bound to (`veilscore.release.binding`), so a bank sees when the data changed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veilscore.data.ingest import read_table
from veilscore.data.table import Table
from veilscore.errors import ConfigError, IdentityError
from veilscore.files.store import write_atomically
from veilscore.keys.identity import Certificate, Identity
from veilscore.release.binding import dataset_version
from veilscore.terms.node_config import NodeConfig

PURPOSE = "data set publication"
FORMAT = "veilscore-dataset/1"
ROUND_TO = 100  # rows; a count that is exact would tell when a single firm came


@dataclass(frozen=True)
class Published:
    """A published data set: its canonical JSON and the owner's signature."""

    body: str
    signature: bytes

    @property
    def content(self) -> dict[str, Any]:
        """The document; trust it after `verify_published`."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    def to_text(self) -> str:
        """JSON for a file."""
        return json.dumps({"body": self.body, "signature": self.signature.hex()}, indent=1)


def publish(
    home: Path, node: NodeConfig, name: str, identity: Identity, *, mock: str = "", normaliser: str = "uscc"
) -> Path:
    """Read a data set of the catalogue, sign what may be told of it, save HOME/published/NAME.json.

    mock : where its mock data are (a file name or address), if there are any.
    normaliser : kind of its ids.
    Raises ConfigError where no such data set.
    Raises DataError where it cannot be read.
    """
    if name not in node.datasets:
        raise ConfigError(f"{node.name} has no data set named {name!r}; node.yaml has {', '.join(node.datasets)}")
    dataset, policy = node.datasets[name], node.policy
    special = {dataset.label_column, dataset.weight_column, dataset.date_column} - {None}
    table = read_table(
        dataset.source,
        dataset.id_column,
        exclude=(*dataset.exclude, *sorted(str(one) for one in special)),
        table=dataset.table,
        query=dataset.query,
        normaliser=normaliser,
    )
    content = {
        "format": FORMAT,
        "owner": node.name,
        "dataset": name,
        "version": dataset_version(home, dataset),
        "published_s": int(time.time()),
        "n_rows": ROUND_TO * round(table.n_rows / ROUND_TO),
        "columns": _columns(table, f"{node.name}.c", names=policy.publish_column_names),
        "terms": _terms(node),
        "mock": mock,
    }
    body = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document = Published(body, identity.sign(body.encode(), PURPOSE))
    path = home / "published" / f"{name}.json"
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(document.to_text().encode()), mode=0o644)
    return path


def _columns(table: Table, alias: str, *, names: bool) -> list[dict[str, Any]]:
    """Kind of each column and its share of missing values, rounded to whole percent."""
    found = []
    for number, (name, kind) in enumerate(sorted(table.kinds.items()), start=1):
        values = table.columns[name]
        gone = np.isnan(values) if kind == "number" else np.equal(values, np.array(None, dtype=object))
        share = round(100 * float(np.mean(gone)))
        found.append({"name": name if names else f"{alias}{number}", "kind": kind, "missing_percent": share})
    return found


def _terms(node: NodeConfig) -> dict[str, Any]:
    """The rules of the policy that a bank has to know before it asks."""
    told = (
        "purposes",
        "tasks",
        "banks",
        "min_overlap",
        "min_bin_count",
        "consent",
        "valid_from",
        "valid_to",
        "release",
    )
    return node.policy.model_dump(mode="json", include=set(told)) | {"issuers": sorted(node.policy.consent_issuers)}


def read_published(text: str, source: str) -> Published:
    """Document of a file; ConfigError if it is none."""
    try:
        parts = json.loads(text)
        document = Published(parts["body"], bytes.fromhex(parts["signature"]))
        stated = document.content["format"], document.content["owner"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source} is not a published data set") from error
    if stated[0] != FORMAT or not isinstance(stated[1], str):
        raise ConfigError(f"{source} is not a published data set of this version ({FORMAT})")
    return document


def verify_published(document: Published, certificate: Certificate) -> dict[str, Any]:
    """Content of a document, if the owner of this certificate signed it; IdentityError otherwise."""
    certificate.verify(document.body.encode(), document.signature, PURPOSE)
    if document.content["owner"] != certificate.name:
        raise IdentityError(f"the document is not about a data set of {certificate.name}", party=certificate.name)
    return document.content
