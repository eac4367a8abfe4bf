"""Rules over a holder's ledger bound models a firm, repeats, rates, the smallest batch and the smallest difference.

What refuses a batch or a hold-out depends on the bank's own rows alone, known here or not, by the digests that it sends
(`release/pseudonyms.py`): a refusal that depended on known firms would tell who is known. A bank can pass these rules
with invented firms, or by leaving the protocol with other digests. It gains nothing that is counted: every firm that is
known here counts by its id as well, and where that count is used up and the digests say nothing, the firm is scored as
unknown (`used_up`) and the holder's own people learn of it. A single firm, whose id every request names, is refused by
what was asked of it singly, known or not; batches that a known firm was in only make it unknown (`single_used_up`).

Bits add up over batches and requests: what was opened of a firm within a year, and log2 of the values of the next
step or band, times its dates. The same model, cut-offs, record, and all that the bank puts in (its own inputs, its
consent lists, all parties' data sets: `release/batch.py`) give what was opened before, which is free. That other
holders know the same firms with the same records as then, this holder does not see (`docs/threat_model.md`).

A score is one linear functional of a firm's codes. With as many functionals as a holder has columns, chosen well, the
codes themselves follow by elimination, so a firm is released by far fewer models than there are columns. The same
firms under nearly the same batch tell who came or left, so batches of one model are equal or differ by many.

This does not stop a bank that states one model's hash and applies another's points. Each opening then counts as a
repeat, of which there are few; that it happened is for an audit to find.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from veilscore.arrays import Integers, Mask, Words
from veilscore.errors import RefusedError
from veilscore.release.ledger import BATCH, DAY_S, EVALUATION, EXACT_BITS, HOUR_S, ONLINE, WATCH, Release, ReleaseLedger
from veilscore.terms.rules import ReleaseRules

_YEAR_S = 365 * DAY_S
_Counts = int | Integers  # of one firm, or (n,)
_Counted = Callable[[Release], Words]


class ReleaseBudget:
    """Decides on one holder's releases by the rules of its policy, and writes them down.

    n_columns : how many columns the holder has in the model.
    """

    def __init__(self, ledger: ReleaseLedger, rules: ReleaseRules, n_columns: int) -> None:
        self._ledger = ledger
        self._rules = rules
        self._n_columns = n_columns

    def refuse_output(self, release: Release) -> None:
        """Refuse scores where the policy lets only bands out."""
        if self._rules.bands_only and not release.band:
            instead = {
                EVALUATION: "set holdout_output: band",
                WATCH: "ask for levels",
                BATCH: "set output: band",
                ONLINE: "ask for a band (output: band)",
            }[release.kind]
            raise RefusedError(
                f"policy releases bands only (release.output: band) and a score was asked for; {instead}"
            )

    def check_batch(self, release: Release) -> None:
        """Refuse a batch or a hold-out before anything is computed.

        RefusedError says which rule forbids it; it names no firm and no number that depends on single firms.
        """
        if self._rules.control == "off":
            return
        self.refuse_output(release)
        if release.kind != WATCH and release.rows.size < self._rules.min_batch:  # few firms begin in a later month
            raise RefusedError(f"a batch with fewer than {self._rules.min_batch} firms is not scored")
        past = self._others(release)
        if release.kind in {BATCH, WATCH}:
            self._check_rate(release, release.kind, self._rules.batches_per_day, DAY_S, "batches a day")
        if release.kind == BATCH:
            self._check_difference(release, past)
        self._refuse_models(release, *self._counted(release, past, lambda r: r.rows))
        if self._bits_used_up(release, lambda r: r.rows, _told_of_rows).any():
            raise RefusedError(
                f"release budget: of at least one firm more than {self._most(release):g} bits would be told within a "
                "year; use the earlier result, ask for fewer steps, or ask the steward to raise "
                f"release.{'watch' if release.kind == WATCH else 'bits_per_year'}"
            )

    def used_up(self, release: Release) -> Words:
        """Return those of the known firms of a batch or hold-out that were released as often as the policy allows."""
        if self._rules.control == "off":
            return np.zeros(0, np.uint64)
        counts = self._counted(release, self._others(release), lambda r: r.firms)
        models, openings = self._over(release, *counts)
        bits = self._bits_used_up(release, lambda r: r.firms, lambda r: r.records)
        used_up: Words = release.firms[models | openings | bits]
        return used_up

    def check_single(self, release: Release, *, fresh: bool) -> str:
        """Refuse a single firm, or return the reference of an earlier release whose result still holds.

        The reference is "" where the score has to be opened; so it is always if `fresh`.
        """
        if self._rules.control == "off":
            return ""
        self.refuse_output(release)
        self._check_rate(release, ONLINE, self._rules.online_per_hour, HOUR_S, "single firms an hour")
        past = self._of_firm(release)
        singly = [r for r in self._lately(past) if r.kind == ONLINE]
        same = [r for r in singly if self._same(r, release) and r.record == release.record and r.bits >= release.bits]
        if same and not fresh:
            return same[-1].reference
        self._refuse_models(release, *self._times(release, singly))
        before, most = self._bits_before(release, past, singly=True), self._rules.bits_per_year
        if self._too_many_bits(release, before):
            raise RefusedError(
                f"release budget: {before:.1f} bits of this firm were told within a year, {release.bits:.1f} more "
                f"would pass {most:g}; use an earlier result, or ask the steward to raise release.bits_per_year"
            )
        return ""

    def tells_a_change(self, release: Release) -> bool:
        """Return whether a bank that gets the record of a single firm learns that it is another than before.

        So it is where the bank did not ask for a fresh opening, and had one by the same model and cut-offs.
        """
        if self._rules.control == "off":
            return False
        past = self._ledger.of_firm(int(release.firms[0]), self._since_s(), singly=True)
        return any(self._same(r, release) and r.reference != release.reference for r in past)

    def single_used_up(self, release: Release) -> bool:
        """Return whether a single firm was released as often as the policy allows, batches counted too."""
        if self._rules.control == "off":
            return False
        past = self._of_firm(release)
        times = self._times(release, self._lately(past))
        return any(self._over(release, *times)) or self._too_many_bits(release, self._bits_before(release, past))

    def admit(self, release: Release, token: tuple[str, str] | None = None, *, as_unknown: bool = False) -> None:
        """Check once more and write down, as one transaction, just before the opened share leaves.

        as_unknown : a single firm is scored as unknown, so that what batches released of it does not matter.
        Raises RefusedError where another release came first or the token was used meanwhile.
        """
        with self._ledger.exclusive():
            self.refuse_output(release)
            if not self._ledger.knows(release.reference):  # else `add` says whether the very same was counted
                self._check(release, as_unknown=as_unknown)
            self._ledger.add(release, token)

    def _check(self, release: Release, *, as_unknown: bool) -> None:
        if release.kind == ONLINE:
            self.check_single(release, fresh=True)
            if not as_unknown and self.single_used_up(release):
                raise RefusedError("other scores were released meanwhile; use a new request id")
        else:
            self.check_batch(release)
            if self.used_up(release).size:  # scored as unknown if it was so before, hence another release came
                raise RefusedError("other scores were released meanwhile; submit the job again")

    def _others(self, release: Release) -> list[Release]:
        return [r for r in self._ledger.releases(self._since_s()) if r.reference != release.reference]

    def _since_s(self) -> float:
        return self._ledger.now_s() - self._rules.window_days * DAY_S

    @staticmethod
    def _same(one: Release, other: Release) -> bool:
        return (one.bank, one.model, one.code_map) == (other.bank, other.model, other.code_map)

    def _check_rate(self, release: Release, kind: str, most: int, period_s: float, what: str) -> None:
        if self._ledger.count_since(release.bank, kind, self._ledger.now_s() - period_s) >= most:
            raise RefusedError(f"{release.bank} has reached the rate limit of {most} {what}; try later")

    def _check_difference(self, release: Release, past: Iterable[Release]) -> None:
        for earlier in past:
            if earlier.kind != BATCH or earlier.model != release.model:
                continue
            least = abs(earlier.rows.size - release.rows.size)  # firms that differ, at the least
            if least >= self._rules.min_difference or np.array_equal(earlier.rows, release.rows):
                continue
            differing = np.setxor1d(earlier.rows, release.rows, assume_unique=True).size
            if differing < self._rules.min_difference:
                raise RefusedError(
                    f"the batch differs from an earlier one of the same model by fewer than "
                    f"{self._rules.min_difference} firms; score the same firms or add more"
                )

    def _of_firm(self, release: Release) -> list[Release]:
        """Return the other releases of one firm, as far back as any rule looks."""
        past = self._ledger.of_firm(int(release.firms[0]), min(self._since_s(), self._ledger.now_s() - _YEAR_S))
        return [r for r in past if r.reference != release.reference]

    def _lately(self, past: Iterable[Release]) -> list[Release]:
        """Return those within the policy's window."""
        since_s = self._since_s()
        return [r for r in past if r.at_s >= since_s]

    def _bits_before(self, release: Release, past: Iterable[Release], *, singly: bool = False) -> float:
        """Return what the bank was told of one firm within a year; exact scores are agreed apart."""
        firm, told, since_s = int(release.firms[0]), dict[object, float](), self._ledger.now_s() - _YEAR_S
        for r in past:
            if r.at_s >= since_s and self._is_bounded(r, release) and (r.kind == ONLINE or not singly):
                record = r.record_of(firm)
                told[r.reference if record is None else (r.model, r.code_map, record)] = r.bits
        return sum(told.values())

    @staticmethod
    def _is_bounded(r: Release, release: Release) -> bool:
        """Return whether the bits of one release count where another is made: those of a watch have their own limit."""
        alike = r.bank == release.bank and (r.kind == WATCH) == (release.kind == WATCH)
        return alike and r.kind != EVALUATION and r.bits < EXACT_BITS

    def _most(self, release: Release) -> float:
        """Return how many bits of a firm may be told in a year."""
        return self._rules.watch if release.kind == WATCH else self._rules.bits_per_year

    def _bits_used_up(self, release: Release, of: _Counted, told: _Counted) -> Mask:
        """Return of which firms (n,) of a batch more bits would be told than a year allows.

        of : what is counted of a release, its firms or its rows; told : (n,) what was opened of each. What was opened
        before by the same model and cut-offs is free.
        """
        wanted = of(release)
        before, free = np.zeros(wanted.size), np.zeros(wanted.size, bool)
        if not self._is_bounded(release, release):
            return free
        groups: dict[tuple[str, str, float, bool], list[Release]] = defaultdict(list)
        for r in self._ledger.releases(self._ledger.now_s() - _YEAR_S):
            if self._is_bounded(r, release) and r.reference != release.reference and of(r).size:
                groups[r.model, r.code_map, r.bits, bool(r.inputs)].append(r)
        for (model, code_map, bits, repeats), past in groups.items():
            firms = np.concatenate([of(r) for r in past])
            if repeats:  # each opening counts once
                opened, places = np.unique(np.concatenate([told(r) for r in past]), return_index=True)
                firms = firms[places]
                if release.inputs and (model, code_map) == (release.model, release.code_map):
                    free |= np.isin(told(release), opened)
            before += bits * how_often(wanted, np.sort(firms))
        used_up: Mask = ~free & (before + release.bits > self._most(release) * (1 + 1e-9))
        return used_up

    def _too_many_bits(self, release: Release, before: float) -> bool:
        return release.bits < EXACT_BITS and before + release.bits > self._rules.bits_per_year * (1 + 1e-9)

    @staticmethod
    def _times(release: Release, past: Sequence[Release]) -> tuple[int, int, int]:
        """Return how often one firm was opened by this model, by how many others, and how often in all."""
        *names, name = _names((*past, release))
        times = Counter(names)
        own = times.pop(name, 0)
        return own, len(times), len(names)

    @staticmethod
    def _counted(release: Release, past: Sequence[Release], of: _Counted) -> tuple[Integers, Integers, Integers]:
        """Return how often each firm was opened by this model, by how many others, and how often in all."""
        groups, wanted = models_of(past, release, of=of), of(release)
        own = how_often(wanted, groups.pop(_name(release, past), np.zeros(0, np.uint64)))
        others, openings = np.zeros_like(own), own.copy()
        for firms in groups.values():
            times = how_often(wanted, firms)
            others += times > 0
            openings += times
        return own, others, openings

    def _allowed(self, release: Release) -> int:
        if release.kind == EVALUATION:
            return self._rules.evaluations_allowed(self._n_columns)
        return self._models_allowed(release)

    def _models_allowed(self, release: Release) -> int:
        exact = not 0 < release.bits < EXACT_BITS  # 0: from before bits were noted
        return self._rules.models_allowed(self._n_columns, exact=exact)

    def _over(self, release: Release, own: _Counts, others: _Counts, openings: _Counts) -> tuple[Any, Any]:
        """Return which firms were opened by too many models, and which too often."""
        rules, d = self._rules, self._n_columns
        most = max(self._models_allowed(release) * (1 + rules.repeats_per_model), rules.evaluations_allowed(d))
        return (others >= self._allowed(release)) & (own == 0), (openings >= most) | (own > rules.repeats_per_model)

    def _refuse_models(self, release: Release, own: _Counts, others: _Counts, openings: _Counts) -> None:
        models, often = self._over(release, own, others, openings)
        if np.any(models):
            raise RefusedError(
                f"release budget: at least one firm was scored by {self._allowed(release)} other models already, the "
                f"most that the policy allows ({self._n_columns} columns); its steward can raise "
                "release.models_per_firm"
            )
        if np.any(often):
            raise RefusedError(
                "release budget: scores of at least one firm were opened too often; use the earlier result, or ask the "
                "steward to raise release.repeats_per_model"
            )


def _told_of_rows(release: Release) -> Words:
    """Return what stands for each row with what the bank put in: (n,)."""
    salt = np.frombuffer(hashlib.sha256(release.inputs).digest()[:8], "<u8")[0]
    mixed: Words = release.rows ^ salt
    return mixed


def models_of(past: Iterable[Release], *more: Release, of: _Counted = lambda r: r.firms) -> dict[str, Words]:
    """Return firms by model, in order and as often as released; `more` are named alike but do not count.

    of : what is counted of a release, its firms or its rows.
    """
    past = tuple(past)
    parts: dict[str, list[Words]] = defaultdict(list)
    names = _names((*past, *more))
    for release, name in zip(past, names, strict=False):
        parts[name].append(of(release))
    # each part is in order: a stable sort merges them
    return {name: np.sort(np.concatenate(some), kind="stable") for name, some in parts.items()}


def _name(release: Release, past: Sequence[Release]) -> str:
    return _names((*past, release))[-1]


def _names(releases: Sequence[Release]) -> list[str]:
    """Return under which name each counts: the first model scored on a map is one with the map's hold-out scores."""
    first: dict[str, str] = {}
    for release in releases:
        if release.kind != EVALUATION:
            first.setdefault(release.code_map, release.model)
    return [
        f"map {r.code_map}"
        if r.kind == EVALUATION or first[r.code_map] == r.model
        else f"model {r.model} map {r.code_map}"
        for r in releases
    ]


def how_often(firms: Words, released: Words) -> Integers:
    """Return how often each of `firms` (n,) stands in `released` (m,), which is in order."""
    times: Integers = np.searchsorted(released, firms, "right") - np.searchsorted(released, firms, "left")
    return times
