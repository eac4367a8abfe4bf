"""Mines rules over several parties: a condition on the bank's own columns, and one on the bins of a holder's column.

What is opened for it is charged by `veilscore/tasks/mining.py`: noised goods and bads by the bank's segments and a
holder's anonymous bins, of the training rows to find rules and of the held-out rows to measure them. Everything here is
arithmetic on what was opened, and costs no account anything.

A candidate is a node of the bank's tree of segments, a column of a holder and the bins with the highest shares of bads.
It must stand out of noise and chance at a level shared among all candidates. Of those left, rules are taken greedily by
the money that they would save beyond the rules before: cells taken already do not count again, and of other columns as
many of a segment's bads and goods are taken to be covered as if columns were independent within it. A rule's own
figures on held-out firms are measured; what several rules save together rests on that assumption.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from party_bank.policy.tables import Row
from veilscore.arrays import Array, Integers, Mask, Vector
from veilscore.data.codes import CodeMap, ColumnMap
from veilscore.data.column_bins import CategoryBins
from veilscore.errors import ConfigError
from veilscore.files.store import JobStore
from veilscore.models.counts import offsets
from veilscore.models.residual import WEIGHT_FACTOR

_LEVEL = 0.05  # chance that noise alone makes any rule
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Money:
    """What a rule is worth: parts of a loan lost at default and earned otherwise, and the mean loan by segment.

    bad_loan, good_loan : (segments,) mean amounts of bad and good firms; the bank's own figures.
    """

    loss_given_default: float
    margin: float
    bad_loan: Vector
    good_loan: Vector


@dataclass(frozen=True)
class Count:
    """Firms and bads that a rule takes, as opened: with the noise's deviations, and what the rule would have saved."""

    firms: float
    bads: float
    bads_error: float
    share_of_bads: float
    base_rate: float
    saved: float
    saved_error: float

    @property
    def lift(self) -> float:
        """Share of bads among the rule's firms, relative to all firms."""
        return self.bads / self.firms / self.base_rate if self.firms > 0 else math.nan

    @property
    def least_lift(self) -> float:
        """The lower end of a 95 % interval of the lift, for noise and chance together."""
        if self.firms <= 0:
            return 0.0
        error = math.sqrt(self.bads_error**2 + max(self.bads, 1.0))
        return max(0.0, (self.bads - _Z * error) / self.firms / self.base_rate)


@dataclass(frozen=True)
class MinedRule:
    """A rule.

    own : the bank's column -> codes; empty: every firm of the bank.
    party, column, codes : the holder's side, in codes that only the holder can read; map_sha256 names their map.
    found, held : on the firms that it was found by, and on those held out.
    beyond : money saved on the firms it was found by, beyond the rules before it.
    """

    own: Mapping[str, tuple[int, ...]]
    party: str
    column: str
    codes: tuple[int, ...]
    n_codes: int
    map_sha256: str
    found: Count
    held: Count
    beyond: float

    @property
    def confirmed(self) -> bool:
        """Return whether held-out firms confirm that it takes more bads than chance would."""
        return self.held.least_lift > 1.0

    @property
    def id(self) -> str:
        """Return a short name of the holder's side."""
        column = self.column.removeprefix(f"{self.party}.")  # of columns without names it is there already
        return f"{self.party}.{column}:{'+'.join(map(str, self.codes))}"

    def knock_out(self) -> dict[str, Any] | None:
        """Return it as a candidate knock-out of a decision; None if it has a condition of the bank's own."""
        if self.own:
            return None
        return {"party": self.party, "column": self.column, "codes": list(self.codes), "map": self.map_sha256}


@dataclass(frozen=True)
class OpenedCounts:
    """What a mining job opened of one part of the rows, in counts.

    firms, bads : holder -> (segments, cells); n_codes : holder -> (columns,).
    bads_noise, firms_noise : holder -> deviation of the noise of a cell's bads and firms.
    known_firms, known_bads : (segments,) which the bank knows exactly.
    """

    firms: Mapping[str, Vector]
    bads: Mapping[str, Vector]
    n_codes: Mapping[str, Integers]
    bads_noise: Mapping[str, float]
    firms_noise: Mapping[str, float]
    known_firms: Vector
    known_bads: Vector

    @classmethod
    def of(cls, kept: Mapping[str, Array], rows: Mapping[str, Array], chosen: Mask) -> OpenedCounts:
        """Return counts from sums of r and W; each column's are made to add up to what the bank knows."""
        base = float(rows["target"][rows["train"]].mean())
        scale = base * (1 - base)
        n_segments = int(rows["segment"].max()) + 1
        known = np.bincount(rows["segment"][chosen], minlength=n_segments).astype(np.float64)
        known_bads: Vector = np.bincount(
            rows["segment"][chosen], rows["target"][chosen].astype(np.float64), n_segments
        ).astype(np.float64)
        firms, bads, n_codes, noise = {}, {}, {}, {}
        for holder in dict.fromkeys(name.partition("/")[0] for name in kept):
            n_codes[holder] = kept[f"{holder}/n_codes"]
            noise[holder] = float(kept[f"{holder}/sigma"][0])
            n = kept[f"{holder}/weight"][:n_segments] / scale
            b = kept[f"{holder}/residual"][:n_segments] + base * n
            for first, last in pairwise(offsets(n_codes[holder])):
                n[:, first:last] += ((known - n[:, first:last].sum(axis=1)) / (last - first))[:, None]
                b[:, first:last] += ((known_bads - b[:, first:last].sum(axis=1)) / (last - first))[:, None]
            firms[holder], bads[holder] = n, b
        by_bads = {holder: sigma * math.hypot(1.0, 1 / (WEIGHT_FACTOR * (1 - base))) for holder, sigma in noise.items()}
        by_firms = {holder: sigma / (WEIGHT_FACTOR * scale) for holder, sigma in noise.items()}
        return cls(firms, bads, n_codes, by_bads, by_firms, known, known_bads)

    @property
    def base_rate(self) -> float:
        """Share of bads of all firms."""
        return float(self.known_bads.sum() / self.known_firms.sum())

    def count(self, holder: str, leaves: Integers, cells: Integers, money: Money, free: Mask | None = None) -> Count:
        """Count the firms of some leaves in some cells; free : (leaves, cells) those that count, all if left out."""
        n, b = self.firms[holder][np.ix_(leaves, cells)], self.bads[holder][np.ix_(leaves, cells)]
        counted = np.ones(n.shape, bool) if free is None else free
        lost = (money.loss_given_default * money.bad_loan)[leaves][:, None]
        earned = (money.margin * money.good_loan)[leaves][:, None]
        saved = float((np.where(counted, b * lost - (n - b) * earned, 0.0)).sum())
        error_b, error_n = self.bads_noise[holder], self.firms_noise[holder]
        error = math.sqrt(float((counted * ((error_b * (lost + earned)) ** 2 + (error_n * earned) ** 2)).sum()))
        return Count(
            firms=float(n[counted].sum()),
            bads=float(b[counted].sum()),
            bads_error=error_b * math.sqrt(counted.sum()),
            share_of_bads=float(b[counted].sum() / self.known_bads.sum()),
            base_rate=self.base_rate,
            saved=saved,
            saved_error=error,
        )


@dataclass(frozen=True)
class _Candidate:
    node: int
    holder: str
    column: int
    codes: tuple[int, ...]
    leaves: Integers
    cells: Integers


class MinedJob:
    """What a finished job of task mine_rules left at the bank.

    folder : the job's, in the bank's home; ConfigError if it is no finished job of that task.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "held.npz").is_file() or not (folder / "segments.json").is_file():
            raise ConfigError(f"{folder} has no mined sums: run a job of task mine_rules to its end first")
        store = JobStore(folder)
        self.rows = store.load_arrays("rows")
        self.holders: dict[str, Any] = store.load_json("holders")
        self.nodes: list[dict[str, Any]] = store.load_json("segments")["nodes"]
        self.code_map = CodeMap.from_json(store.load_json("code_map"))
        self.found = OpenedCounts.of(store.load_arrays("sums"), self.rows, self.rows["train"].astype(bool))
        self.held = OpenedCounts.of(store.load_arrays("held"), self.rows, ~self.rows["train"].astype(bool))

    def money(self, loss_given_default: float, margin: float, amounts: Vector | None = None) -> Money:
        """Return the bank's own figures; amounts : (rows,) of its firms in the job's order, 1 each if left out."""
        amounts = np.ones(self.rows["target"].size) if amounts is None else amounts
        if amounts.shape != self.rows["target"].shape:
            raise ConfigError("amounts are not those of the job's firms: its data set has changed since")
        means = []
        for label in (1, 0):
            of = self.rows["target"] == label
            n = np.bincount(self.rows["segment"][of], minlength=self.found.known_firms.size)
            total = np.bincount(self.rows["segment"][of], amounts[of], self.found.known_firms.size)
            means.append(np.where(n > 0, total / np.maximum(n, 1), amounts[of].mean()))
        return Money(loss_given_default, margin, means[0], means[1])

    def rules(
        self, money: Money, *, most: int = 10, least_firms: float = 100.0, least_lift: float = 1.5
    ) -> list[MinedRule]:
        """Return up to so many rules, in the order in which they save most beyond those before.

        least_firms, least_lift : what a rule takes of the firms that it is found by, beyond noise.
        """
        candidates = list(self._standing_out(least_firms, least_lift, money))
        left_b, left_g = np.ones(self.found.known_firms.size), np.ones(self.found.known_firms.size)
        free = {holder: np.ones(bads.shape, bool) for holder, bads in self.found.bads.items()}
        rules: list[MinedRule] = []
        while candidates and len(rules) < most:
            worth = [self._beyond(one, money, free, left_b, left_g) for one in candidates]
            best = int(np.argmax(worth))
            if worth[best] <= 0:
                break
            one = candidates.pop(best)
            rules.append(self._rule(one, money, worth[best]))
            place = np.ix_(one.leaves, one.cells)
            new = free[one.holder][place]
            n, b = self.found.firms[one.holder][place] * new, self.found.bads[one.holder][place] * new
            known_g = (self.found.known_firms - self.found.known_bads)[one.leaves]
            left_b[one.leaves] *= 1 - np.clip(b.sum(axis=1) / np.maximum(self.found.known_bads[one.leaves], 1.0), 0, 1)
            left_g[one.leaves] *= 1 - np.clip((n - b).sum(axis=1) / np.maximum(known_g, 1.0), 0, 1)
            free[one.holder][place] = False
        return rules

    def _candidates(self) -> Iterator[_Candidate]:
        """Yield, for each node and column, the bins with the highest shares of bads: the first, the first two, ..."""
        for number, node in enumerate(self.nodes):
            leaves = np.array(node["leaves"], np.int64)
            rate = float(self.found.known_bads[leaves].sum() / max(self.found.known_firms[leaves].sum(), 1.0))
            for holder, sizes in self.found.n_codes.items():
                at = offsets(sizes)
                for column, (first, last) in enumerate(pairwise(at)):
                    n = self.found.firms[holder][leaves, first:last].sum(axis=0)
                    b = self.found.bads[holder][leaves, first:last].sum(axis=0)
                    noise = self.found.firms_noise[holder] * math.sqrt(leaves.size)
                    order = np.argsort(-(b + rate * noise) / (np.maximum(n, 0.0) + noise), kind="stable")
                    order = order[n[order] > 3 * noise]  # of emptier bins nothing is known
                    for size in range(1, min(order.size + 1, last - first)):
                        codes = np.sort(order[:size])
                        yield _Candidate(number, holder, column, tuple(codes.tolist()), leaves, codes + first)

    def _standing_out(self, least_firms: float, least_lift: float, money: Money) -> Iterator[_Candidate]:
        every = list(self._candidates())
        level = NormalDist().inv_cdf(1 - _LEVEL / max(len(every), 1))
        for one in every:
            count = self.found.count(one.holder, one.leaves, one.cells, money)
            firms = self.found.known_firms[one.leaves].sum()
            rate = self.found.known_bads[one.leaves].sum() / max(firms, 1.0)
            chance = math.sqrt(max(count.firms, 1.0) * rate * (1 - rate))
            noise = math.hypot(
                count.bads_error,
                rate * self.found.firms_noise[one.holder] * math.sqrt(one.cells.size * one.leaves.size),
            )
            enough = count.firms >= least_firms and count.lift >= least_lift
            if enough and count.bads - rate * count.firms > level * math.hypot(chance, noise):
                yield one

    def _beyond(self, one: _Candidate, money: Money, free: Mapping[str, Mask], left_b: Vector, left_g: Vector) -> float:
        """Return the money that a candidate saves beyond the rules taken so far."""
        place = np.ix_(one.leaves, one.cells)
        n, b = (part[one.holder][place] * free[one.holder][place] for part in (self.found.firms, self.found.bads))
        lost = (money.loss_given_default * money.bad_loan * left_b)[one.leaves]
        earned = (money.margin * money.good_loan * left_g)[one.leaves]
        return float((b.sum(axis=1) * lost - (n - b).sum(axis=1) * earned).sum())

    def _rule(self, one: _Candidate, money: Money, beyond: float) -> MinedRule:
        told = self.holders[one.holder]
        return MinedRule(
            own={name: tuple(codes) for name, codes in self.nodes[one.node]["conditions"].items()},
            party=one.holder,
            column=told["names"][one.column],
            codes=one.codes,
            n_codes=int(told["n_codes"][one.column]),
            map_sha256=told["map"],
            found=self.found.count(one.holder, one.leaves, one.cells, money),
            held=self.held.count(one.holder, one.leaves, one.cells, money),
            beyond=beyond,
        )

    def table_row(self, rule: MinedRule) -> Row:
        """Return a rule as a candidate row: firms that meet the bank's side are decided with the knock-out on."""
        tests = {name: own_test(self.code_map, name, codes) for name, codes in rule.own.items()}
        held = f"held out: lift {rule.held.lift:.1f} (at least {rule.held.least_lift:.1f})"
        return Row(tests, {"knock_out": f"'{rule.id}'"}, f"{held}, {100 * rule.held.share_of_bads:.0f}% of bads")


def own_test(code_map: CodeMap, name: str, codes: tuple[int, ...]) -> str:
    """Return codes of one of the bank's columns as a unary test of a decision table."""
    column = next(one for one in code_map.columns if one.name == name)
    bins = [int(np.flatnonzero(column.permutation == code)[0]) for code in sorted(codes)]
    missing = ["null"] if column.bins.missing in bins else []
    return ", ".join([*missing, *_tests(column, sorted(bins))])


def _tests(column: ColumnMap, chosen: list[int]) -> Iterator[str]:
    bins = column.bins
    if isinstance(bins, CategoryBins):
        named = [level for k, group in enumerate(bins.groups) if k in chosen for level in group]
        if named:
            yield f"in [{', '.join(map(_quoted, named))}]"
        if bins.other is not None and bins.other in chosen:
            others = [level for k, group in enumerate(bins.groups) if k not in chosen for level in group]
            yield f"not in [{', '.join(map(_quoted, [*others, *named]))}]"
        return
    cuts = [-math.inf, *bins.edges, math.inf]
    ranges = [k for k in chosen if k < len(cuts) - 1]
    while ranges:
        run = [ranges.pop(0)]
        while ranges and ranges[0] == run[-1] + 1:
            run.append(ranges.pop(0))
        yield _range_test(cuts[run[0]], cuts[run[-1] + 1])
    special = [k - len(cuts) + 1 for k in chosen if k >= len(cuts) - 1]
    yield from (repr(bins.special[k]) for k in special if k < len(bins.special))


def _range_test(low: float, high: float) -> str:
    """Return the test of numbers above `low` and up to `high`."""
    if low == -math.inf:
        return "!= null" if high == math.inf else f"<= {high!r}"
    return f"> {low!r}" if high == math.inf else f"({low!r}..{high!r}]"


def _quoted(level: str) -> str:
    if "'" in level and '"' in level:
        raise ConfigError("a level has both kinds of quotes, which a decision table cannot say: rename it")
    return f'"{level}"' if "'" in level else f"'{level}'"
