"""Spares: the encryption of an online score done before the request comes, on random numbers instead of codes.

Source   : correlated randomness in the manner of Beaver 1991, made with the messages of `veilscore.protocols.online`.
Messages : PrepareSpare -> PreparedSpare: the holder encrypts r, uniform modulo T in every cell, under its own key.
           FinishSpare: the bank's points on it, masked; the holder opens and keeps s = sum of points r + mask.
           With the request, the holder sends d = x - r for its one-hot cells x instead of ciphertexts; the bank takes
           sum of points d and its mask off the total. The holder's partial is s plus its zero-share.
           For trees the bank's factors c depend on the record, so the points of a spare are random numbers a, uniform
           modulo T, and x are the holder's indicators. The bank sends c - a when the holder is to open, and takes
           sum of c d and its mask off the total; the holder's partial is s plus sum of (c - a) r, and its zero-share.
Reveals  : nothing to either: d is uniform while r is hidden by ring-LWE, s is uniform without the mask, which hides a,
           so that c - a is uniform.
Must     : one r and one a for one record. Spares live in memory only, are taken out before d leaves, and a repeated
           request gets the same d.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from veilscore.arrays import Integers, Words
from veilscore.crypto import he
from veilscore.errors import MessageError, SecretReuseError
from veilscore.evidence.online_opening import Asked, Bound, digest_of_ciphertexts
from veilscore.online.model import BankModel
from veilscore.protocols import online

SPARES = 256  # a holder and model; a few kB each at the holder, a few bytes at the bank
LOW = 32  # from here on spares are made although requests keep coming
_HELD = 4096  # at a holder, all banks and models
_CELL_BYTES = 4
_HASH_BYTES = 32


@dataclass(repr=False)
class HolderSpare:
    """A holder's half: random numbers r (n_cells,) modulo T, and s once the bank's reply was opened.

    Attributes
    ----------
    part : what it is for: hash of the code map, for trees followed by that of the holder's part.
    bound : of the evidence: the bank's commitment, digests of what was sent and opened.
    """

    part: bytes
    random: Words
    opened: Words | None = None
    used: bool = False
    bound: Bound = field(default_factory=Bound)

    def difference(self, cells: Words) -> bytes:
        """Cells of a record (n_cells,) minus r modulo T, 4 bytes a cell; once."""
        if self.used:
            raise SecretReuseError("a spare was asked for twice: each record takes a new one")
        self.used = True
        difference = (cells + np.uint64(he.T) - self.random) % np.uint64(he.T)
        return difference.astype("<u4").tobytes()

    def partial(self, factors: bytes, bank: str) -> Words:
        """The holder's partial (1,) modulo T, but for its zero-share.

        Parameters
        ----------
        factors : the bank's c - a for trees; empty for a scorecard.
        """
        if self.opened is None or bool(factors) != (len(self.part) > _HASH_BYTES):
            raise MessageError("a request to open does not fit its spare", party=bank)
        if not factors:
            return self.opened
        opened = int(self.opened[0]) + _dot(_parse(factors, self.random.size, bank), self.random.astype(np.int64))
        return np.array([opened % he.T], np.uint64)


class HolderSpares:
    """All spares of a holder, by bank and spare id; the oldest go first."""

    def __init__(self) -> None:
        self._spares: OrderedDict[str, HolderSpare] = OrderedDict()

    def draw(
        self, context: he.SecretContext, key: str, part: bytes, n_cells: int, commitment: bytes = b""
    ) -> tuple[bytes, ...]:
        """Draw and encrypt r; a spare id is used once."""
        if key in self._spares:
            raise MessageError("this spare id was used already")
        random = he.uniform_slots(n_cells)
        spare = self._spares[key] = HolderSpare(part, random)
        while len(self._spares) > _HELD:
            self._spares.popitem(last=False)
        query = online.encrypt_cells(context, random[None])
        spare.bound = Bound(commitment, (digest_of_ciphertexts(query),), spare=key.partition("/")[2])
        return query

    def finish(self, context: he.SecretContext, key: str, evaluated: Sequence[bytes]) -> None:
        """Open the bank's masked reply; once."""
        spare = self._spares.get(key)
        if spare is None or spare.opened is not None:
            raise MessageError("no such spare, or it was finished already")
        spare.bound = replace(spare.bound, reply=digest_of_ciphertexts(evaluated))
        spare.opened = online.open_partial(context, evaluated, 1, spare.random.size, np.zeros(1, np.uint64))

    def take(self, key: str, part: bytes) -> HolderSpare | None:
        """Take a finished spare of this part out, if there is one."""
        spare = self._spares.get(key)
        if spare is None or spare.opened is None or spare.part != part:
            return None
        return self._spares.pop(key)


@dataclass(frozen=True)
class BankSpare:
    """The bank's half: the sum of its masks modulo T, for trees its random numbers a (n_bits,), and its opening."""

    spare_id: str
    mask_total: Words = field(repr=False)
    random: Integers | None = field(default=None, repr=False)
    asked: Asked | None = field(default=None, repr=False)

    def evaluated(self, difference: bytes, points: Integers, holder: str) -> online.Evaluated:
        """What the bank has to take off the total, given the holder's difference.

        Parameters
        ----------
        points : of its cells (n_cells,), for trees the record's factors.
        """
        known = _dot(_parse(difference, points.size, holder), points % he.T)
        mask = (self.mask_total.astype(np.int64) - known) % he.T
        factors = b"" if self.random is None else online.pack_factors(points, self.random)
        return online.Evaluated((), mask.astype(np.uint64), factors)


class BankSpares:
    """The bank's stock by holder and model."""

    def __init__(self) -> None:
        self._stock: dict[tuple[str, str], tuple[BankModel, deque[BankSpare]]] = {}

    def take(self, holder: str, model: BankModel) -> BankSpare | None:
        """Take a spare out, if there is one; from now on this model's stock is kept up."""
        key = holder, model.artefact.name
        if key not in self._stock or self._stock[key][0] is not model:
            self._stock[key] = model, deque()
        stock = self._stock[key][1]
        return stock.popleft() if stock else None

    def add(self, holder: str, model: BankModel, spare: BankSpare) -> None:
        """Put a spare into the stock, unless the model was replaced meanwhile."""
        kept = self._stock.get((holder, model.artefact.name))
        if kept is not None and kept[0] is model:
            kept[1].append(spare)

    def most_wanted(self) -> tuple[str, BankModel, int] | None:
        """Holder and model with the smallest stock, and its size; None if all are full."""
        short = [
            (len(stock), holder, name) for (holder, name), (_, stock) in self._stock.items() if len(stock) < SPARES
        ]
        if not short:
            return None
        n, holder, name = min(short)
        return holder, self._stock[holder, name][0], n


def _parse(data: bytes, n_cells: int, sender: str) -> Integers:
    """Read a peer's numbers modulo T, 4 bytes each."""
    cells = np.frombuffer(data, "<u4").astype(np.int64) if len(data) == _CELL_BYTES * n_cells else None
    if cells is None or (cells >= he.T).any():
        raise MessageError("numbers under a spare have the wrong size or range", party=sender)
    return cells


def _dot(left: Integers, right: Integers) -> int:
    """Inner product modulo T of numbers below T."""
    return int((left * right % he.T).sum()) % he.T


def new_spare_id() -> str:
    """Id of a spare; 128 random bits."""
    return secrets.token_hex(16)
