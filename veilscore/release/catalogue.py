"""A holder publishes a data set as a signed document with its schema, counts and terms, never a row.

The document goes to banks by any way (mail, a shared folder) and is verified against the owner's pinned certificate.
Counts are rounded, names of columns are told only where the policy publishes them (as bins are: `publish_bins`), and
the version is the salted
digest that jobs are bound to (`veilscore.release.binding`), so a bank sees when the data changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from veilscore.data.codes import ToldNames, told_name
from veilscore.data.fixed_bins import FixedBins
from veilscore.data.ingest import read_table
from veilscore.data.published_bins import PublishedBins
from veilscore.data.table import Table
from veilscore.errors import ConfigError, IdentityError
from veilscore.files.private import open_folder
from veilscore.files.store import write_atomically
from veilscore.keys.identity import Certificate, Identity
from veilscore.release.binding import dataset_version
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import Strict, parse_json

PURPOSE = "data set publication"
FORMAT: Literal["veilscore-dataset/1"] = "veilscore-dataset/1"
ROUND_TO = 100  # rows; a count that is exact would tell when a single firm came
# the rules of the policy that a bank has to know before it asks
_TERMS = {
    "purposes",
    "tasks",
    "banks",
    "min_overlap",
    "min_bin_count",
    "consent",
    "valid_from",
    "valid_to",
    "release",
    "publish_bins",
    "tell_measure",
    "retired_models",
}


class PublishedColumn(Strict):
    """Tells of one column its kind and its share of missing values, in whole percent."""

    name: str
    kind: str
    missing_percent: int


class PublishedDataset(Strict):
    """Tells of a data set its size, its columns and the terms of its owner."""

    format: Literal["veilscore-dataset/1"] = FORMAT
    owner: str
    dataset: str
    version: str
    published_s: int
    n_rows: int
    columns: tuple[PublishedColumn, ...]
    terms: dict[str, Any]
    mock: str
    bins: tuple[PublishedBins, ...] = ()


@dataclass(frozen=True)
class Published:
    """A published data set as it travels: canonical JSON and the owner's signature of it."""

    body: str
    signature: bytes

    @property
    def content(self) -> PublishedDataset:
        """Return what the document says; trust it after `verify_published`."""
        return PublishedDataset.model_validate_json(self.body)

    def to_text(self) -> str:
        """Return JSON for a file."""
        return json.dumps({"body": self.body, "signature": self.signature.hex()}, indent=1)


def publish(
    home: Path,
    node: NodeConfig,
    name: str,
    identity: Identity,
    *,
    mock: str = "",
    normaliser: str = "uscc",
    fixed: FixedBins | None = None,
) -> Path:
    """Read a data set of the catalogue, sign what may be told of it, save HOME/published/NAME.json.

    mock : where its mock data are (a file name or address), if there are any.
    normaliser : kind of its ids.
    fixed : its bins in force, charged already, where the policy publishes some of them.
    Raises ConfigError where there is no such data set, DataError where it cannot be read.
    """
    if name not in node.datasets:
        raise ConfigError(f"{node.name} has no data set named {name!r}; node.yaml has {', '.join(node.datasets)}")
    dataset, policy = node.datasets[name], node.policy
    special = {dataset.label_column, dataset.weight_column, dataset.date_column} - {None, *dataset.key_columns}
    table = read_table(
        dataset.source,
        dataset.key,
        exclude=(*dataset.exclude, *sorted(str(one) for one in special)),
        rules=dataset,
        table=dataset.table,
        query=dataset.query,
        normaliser=normaliser,
    )
    content = PublishedDataset(
        owner=node.name,
        dataset=name,
        version=dataset_version(home, dataset),
        published_s=int(time.time()),
        n_rows=ROUND_TO * round(table.n_rows / ROUND_TO),
        columns=_columns(table, node.name, told=policy.told_names),
        terms=policy.model_dump(mode="json", include=_TERMS) | {"issuers": sorted(policy.consent_issuers)},
        mock=mock,
        bins=() if fixed is None else _bins(fixed, policy.publish_bins),
    )
    body = json.dumps(content.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document = Published(body, identity.sign(body.encode(), PURPOSE))
    path = home / "published" / f"{name}.json"
    open_folder(path.parent)
    write_atomically(path, lambda file: file.write(document.to_text().encode()), mode=0o644)
    return path


def _bins(fixed: FixedBins, columns: Iterable[str]) -> tuple[PublishedBins, ...]:
    return tuple(PublishedBins.of(fixed, name) for name in columns if name in fixed.columns)  # others: of another set


def _columns(table: Table, party: str, *, told: ToldNames) -> tuple[PublishedColumn, ...]:
    found = []
    for number, (name, kind) in enumerate(sorted(table.kinds.items()), start=1):
        values = table.columns[name]
        gone = np.isnan(values) if kind == "number" else np.equal(values, np.array(None, dtype=object))
        share = round(100 * float(np.mean(gone)))
        found.append(PublishedColumn(name=told_name(name, number, party, told), kind=kind, missing_percent=share))
    return tuple(found)


def read_published(text: str, source: str) -> Published:
    """Return the document of a file; ConfigError if it is none."""
    try:
        parts = parse_json(text)
        document = Published(parts["body"], bytes.fromhex(parts["signature"]))
        _ = document.content
    except (ValueError, KeyError, TypeError) as error:  # pydantic's error is a ValueError
        raise ConfigError(f"{source} is not a published data set of this version ({FORMAT})") from error
    return document


def verify_published(document: Published, certificate: Certificate) -> PublishedDataset:
    """Return what a document says, if the owner of this certificate signed it; IdentityError otherwise."""
    certificate.verify(document.body.encode(), document.signature, PURPOSE)
    content = document.content
    if content.owner != certificate.name:
        raise IdentityError(f"the document is not about a data set of {certificate.name}", party=certificate.name)
    return content
