"""Read data sets as notebooks hold them (tables, paths, arrays by name, data frames) into checked tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from veilscore.data.frames import plain_array
from veilscore.data.ingest import read_table
from veilscore.data.table import Kind, Table, absent, checked_label, make_table
from veilscore.errors import ColumnError, ConfigError, LabelError
from veilscore.terms.reading import NOTHING_SAID, ReadingRules
from veilscore.terms.training import Training

Source = Table | Path | str | Mapping[str, Any]


@dataclass(frozen=True)
class TableReader:
    """Makes checked tables of what users pass; the fields name columns of data that is not a `Table`.

    id : the column with ids of firms; of firms at dates that, and the one with the days.
    """

    id: str | tuple[str, str]
    label: str
    weight: str | None
    date: str | None
    parameters: Training
    rules: Mapping[str, ReadingRules] = field(default_factory=dict)  # by party

    def bank(self, party: str, source: Source) -> Table:
        """Return the bank's table with label, and weights and dates where the job uses them."""
        p = self.parameters
        table = self._read(party, source, label=self.label, weight=self.weight, dates=self.date)
        if table.label is None:
            raise LabelError(f"the bank's table {table.source} has no label; give one to make_table")
        for asked, values, text in (
            (p.weights, table.weight, "weights=True needs weights in the bank's data; name them in weight="),
            (
                p.holdout_from is not None,
                table.dates,
                "holdout_from needs dates in the bank's data; name them in date=",
            ),
        ):
            if asked and values is None:
                raise ConfigError(text)
        return table if p.weights else replace(table, weight=None)

    def holder(self, party: str, source: Source) -> Table:
        """Return a holder's table."""
        return self._read(party, source)

    def again(self, party: str, source: Source, kinds: Mapping[str, Kind], *, labelled: bool = False) -> Table:
        """Return a table to score: the columns of training only, of the kinds that they had; and the label if asked."""
        if isinstance(source, Table):
            if labelled and source.label is None:
                raise LabelError(f"the bank's table {source.source} has no label; give one to make_table")
            return _chosen(source, tuple(kinds), ())
        if isinstance(source, (str, Path)):
            return read_table(
                source,
                self.id,
                self.label if labelled else None,
                columns=tuple(kinds),
                kinds=kinds,
                normaliser=self.parameters.id_normaliser,
                rules=self._rules(party),
            )
        return self._from_columns(party, source, {"label": self.label} if labelled else {}, tuple(kinds), kinds)

    def _read(self, party: str, source: Source, **parts: str | None) -> Table:
        chosen = self.parameters.columns.get(party)
        include, exclude = (chosen.include, chosen.exclude) if chosen else (None, ())
        if isinstance(source, Table):
            return _chosen(source, include, exclude)
        if isinstance(source, (str, Path)):
            return read_table(
                source,
                self.id,
                parts.get("label"),
                weight_column=parts.get("weight"),
                date_column=parts.get("dates"),
                columns=include,
                exclude=exclude,
                normaliser=self.parameters.id_normaliser,
                rules=self._rules(party),
            )
        named = {part: name for part, name in parts.items() if name is not None}
        table = self._from_columns(party, source, named, None, None)
        return _chosen(table, include, exclude)

    def _from_columns(
        self,
        party: str,
        source: Mapping[str, Any],
        parts: Mapping[str, str],
        features: tuple[str, ...] | None,
        kinds: Mapping[str, Kind] | None,
    ) -> Table:
        if not hasattr(source, "items"):
            raise ConfigError(f"data of {party} is a {type(source).__name__}; pass a Table, a path, or columns by name")
        columns = {str(name): values for name, values in source.items()}
        index = getattr(source, "index", None)
        key, day = (self.id, None) if isinstance(self.id, str) else self.id
        if key not in columns and getattr(index, "name", None) == key:  # a data frame with its ids aside
            columns[key] = index
        special = (key, *(() if day is None else (day,)), *parts.values())
        rules = self._rules(party)
        for name in (*special, *(features or ()), *rules.named):
            if name not in columns:
                raise ColumnError(absent(name, tuple(columns), f"the data of {party}"))
        wanted = features or tuple(name for name in columns if name not in special)
        return make_table(
            columns[key],
            {name: columns[name] for name in wanted},
            columns.get(parts.get("label", "")),
            weight=columns.get(parts.get("weight", "")),
            dates=columns.get(parts.get("dates", "")),
            days=None if day is None else columns[day],
            source=f"data of {party}",
            normaliser=self.parameters.id_normaliser,
            kinds=kinds,
            rules=rules,
        )

    def _rules(self, party: str) -> ReadingRules:
        return self.rules.get(party, NOTHING_SAID)


def with_labels(source: Source, label: str, y: Any) -> Source:
    """Return the bank's data with labels (n,) that stand beside it, in place of any of its own."""
    values = plain_array(y)[0]
    if isinstance(source, Table):
        return replace(source, label=checked_label(values, source.source))
    if isinstance(source, (str, Path)):
        raise ConfigError("labels beside a path: leave them out, and name the file's own column in label=")
    if hasattr(source, "assign"):  # a data frame, whose index may hold the ids
        return source.assign(**{label: values})  # type: ignore[no-any-return]
    return {**source, label: values} if hasattr(source, "items") else source


def _chosen(table: Table, include: tuple[str, ...] | None, exclude: tuple[str, ...]) -> Table:
    """Return the table with the columns that take part."""
    for name in (*(include or ()), *exclude):
        if name not in table.columns:
            raise ColumnError(absent(name, tuple(table.columns), table.source))
    wanted = tuple(table.columns) if include is None else include
    columns = {name: table.columns[name] for name in wanted if name not in exclude}
    if not columns:
        raise ColumnError(f"{table.source} has no feature column left; check `columns`")
    return replace(table, columns=columns)
