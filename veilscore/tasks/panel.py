"""Which rows of firms at dates a job takes, and what holders check of them: the unit is the firm, not the row.

The bank draws which firms are held out, and how many of a firm's rows take part, by the job's seed. It sends a number
for the firm of each row, so that a holder counts the rows of all firms, those it does not know among them: a refusal
that depended on known ones would tell who is known.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Mask
from veilscore.data.ids import Ids
from veilscore.data.panel import drawn, most_rows, newest, numbered
from veilscore.data.table import Table
from veilscore.errors import DataError, MessageError, RefusedError
from veilscore.terms.parameters import Parameters, Sampled, ScoreBatch
from veilscore.terms.training import Training


def rows_taken(table: Table, p: Parameters) -> Table:
    """Bank: return the rows of its data set that a job with these parameters takes; DataError if there are none."""
    if table.panel is None:
        return table
    if not isinstance(p, Sampled):  # firms are scored, at one date of each unless the job asks for all
        return table if isinstance(p, ScoreBatch) and p.dates == "all" else table.take(newest(table.panel))
    held = held_out(table.firms, p)
    kept = np.ones(table.n_rows, bool)
    if p.holdout_from is not None and table.dates is not None:
        kept = held == (table.dates >= np.datetime64(p.holdout_from))
    firm, generator = numbered(table.firms), np.random.default_rng(p.holdout_seed)
    one_held = isinstance(p, Training) and p.firm_weight == "shared"
    for part, most in ((kept & ~held, p.rows_per_firm), (kept & held, 1 if one_held else p.rows_per_firm)):
        kept[np.flatnonzero(part)[~drawn(firm[part], most, generator)]] = False
    if not kept.any():
        raise DataError(f"no row of {table.source} takes part: holdout_from leaves none of either kind")
    return table.take(kept)


def held_out(firms: Ids, p: Sampled) -> Mask:
    """Return which rows (n,) are of firms that are set aside, all rows of a firm alike, by the job's seed."""
    found, place = np.unique(firms, return_inverse=True)
    key = hashlib.sha256(f"veilscore hold-out {p.holdout_seed}".encode()).digest()
    draws = b"".join(hashlib.blake2b(firm.encode(), key=key, digest_size=8).digest() for firm in found.tolist())
    held: Mask = (np.frombuffer(draws, "<u8") < p.holdout_fraction * 2.0**64)[place]
    return held


def firm_numbers(table: Table) -> dict[str, Array]:
    """Return what is kept of the firms of a panel's rows: "firm" (n_rows,), as of `numbered`; nothing otherwise."""
    return {} if table.panel is None else {"firm": numbered(table.firms)}


def shared_weights(weight: Array, firm: Integers, train: Mask) -> Array:
    """Return weights (n,) of which those of a firm's training rows add up to their mean."""
    counts = np.bincount(firm[train], minlength=int(firm.max()) + 1)
    return np.where(train, weight / np.maximum(counts, 1)[firm], weight)


# --- at a holder -----------------------------------------------------------------------------------------------------


def checked_firms(sent: Integers, p: Parameters, bank: str) -> Integers:
    """Return the bank's numbers of the firms of its rows (n,); MessageError where they are not what they should be.

    Nothing here looks at own rows: an error that depended on them would tell the bank which of its firms are known.
    """
    first = np.unique(sent, return_index=True)
    if sent.size and (not np.array_equal(first[0], np.arange(first[0].size)) or (np.diff(first[1]) < 0).any()):
        raise MessageError("firms of rows are not numbered in the order in which they come", party=bank)
    if isinstance(p, Sampled) and most_rows(sent) > p.rows_per_firm:
        raise RefusedError(
            f"a firm has {most_rows(sent)} rows in the bank's job; the job says rows_per_firm: {p.rows_per_firm}"
        )
    return sent


def numbered_once(sent: Integers, row_of: Integers, firms: Ids) -> Integers:
    """Return `row_of` (n,) with the rows of an own firm unknown where the bank numbers them as of several firms.

    Such a firm would be counted as several, and noise is for the rows of one. Whether a firm's rows are left out
    depends on that firm's own record alone. Two firms under one number both stay: counted as one, they count less.

    row_of : own row of each of the bank's rows, -1 where unknown; firms : (n_own,) own firms.
    """
    known = np.flatnonzero(row_of >= 0)
    own = numbered(firms[row_of[known]])
    pairs = np.unique(np.stack([own, sent[known]]), axis=1)
    several = np.bincount(pairs[0], minlength=1) > 1
    kept: Integers = row_of.copy()
    kept[known[several[own]]] = -1
    return kept


def refuse_split_firms(firm: Integers, train: Mask, party: str) -> None:
    """Refuse where a firm trains and is held out: its account counts the larger of the two, not both."""
    if np.intersect1d(firm[train], firm[~train]).size:
        raise RefusedError("a firm has rows that train and others that are held out; hold out whole firms", party=party)


def refuse_more_held(firm: Integers, held: Mask, most: int, party: str) -> None:
    """Refuse to count more rows (n,) of a firm than the noise covers: of shared weights a hold-out has none."""
    if most_rows(firm[held]) > most:
        raise RefusedError(
            f"the bank has {most_rows(firm[held])} held-out rows of a firm counted, the noise is for {most}",
            party=party,
        )


def digests_by_firm(digests: NDArray[np.uint64], firm: Integers) -> NDArray[np.uint64]:
    """Return a digest of each firm's rows, (n_firms,): two jobs differ by a firm where they differ by a row of it."""
    _, place = np.unique(firm, return_inverse=True)
    sums = np.zeros(int(place.max()) + 1 if place.size else 0, np.uint64)
    np.add.at(sums, place, digests)  # modulo 2^64, as good as a digest of their set
    return sums
