"""Scores boosted trees in a batch, also of the hold-out: the bank learns steps, nobody learns a leaf or a part.

Source   : Design page, sections 2, 3, 6 and 8; docs/protocols/lattice.md, sections 2a and 3.
Parties  : The bank has leaf points and its codes, the holders have codes and their splits, the coordinator adds masked
           partials.
Messages : As in `veilscore.protocols.scoring`; between request and partial, for each holder: for trees on its columns
           alone BatchBankQuery -> BatchHolderHints -> BatchBankQuery, a lookup by the row's leaf in each tree; for the
           others BatchBankKey, then block by block of 8192 rows BatchBankFactors -> BatchHolderReply, a product of the
           bank's factors c with the holder's indicators e (`veilscore.models.trees`). Trees on the bank's columns alone
           need no message. Steps, bands and totals are opened as there.
Reveals  : What `veilscore.protocols.scoring` reveals. A holder knows its splits and the shape of its trees from
           training.
Assumes  : Ring-LWE is hard; the bank and the coordinator do not collude with all holders but one.
Aborts   : RefusedError where a holder refuses; ParameterError where totals or rows do not fit the ring; MessageError on
           a message of wrong size, range or order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from veilscore.arrays import CodeArray, Integers, Limbs, Mask, Words
from veilscore.errors import ConfigError, MessageError, ParameterError
from veilscore.lattice.bfv import element_bytes
from veilscore.lattice.lookup import LookupCodes, LookupTable
from veilscore.lattice.params import LOOKUP_TREES, MAX_CELLS, PRODUCT_OPEN, SCORE_T, check_product
from veilscore.lattice.product import N, ProductEvaluator, ProductKey
from veilscore.lattice.slots import n_folded
from veilscore.models.boosted import Boosted
from veilscore.models.leaf_index import leaf_index
from veilscore.models.trees import Tree, coefficients, indicators
from veilscore.protocols.banding import BandCircuit, bank_bands
from veilscore.protocols.blocks import AHEAD, WORKERS, ahead
from veilscore.protocols.scoring import (
    BandResult,
    BatchRequest,
    BatchResult,
    HolderAnswer,
    HolderPart,
    accept,
    answer_lookup,
    ask_holders,
    begin_lookup,
    check_possible,
    finish_lookup,
    receive_total,
    release_share,
)
from veilscore.terms.bands import Bands
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import Progress, Protocol, Send, Session, receive

Units = Integers
GROUP = 64  # vectors of one message: 8 MB at a full block


@dataclass(frozen=True)
class Forms:
    """How one holder's trees are scored: numbers of those looked up, and of those multiplied."""

    looked_up: tuple[int, ...]
    multiplied: tuple[int, ...]


def forms(trees: Sequence[Tree], n_rows: int) -> Forms:
    """Choose the form of each tree from sizes that both know: trees of own columns go the way of fewer bytes."""
    own = tuple(i for i, tree in enumerate(trees) if tree.asks == "holder")
    both = tuple(i for i, tree in enumerate(trees) if tree.asks == "both")
    n_cells = sum(trees[i].n_leaves for i in own)
    n_bits = sum(len(trees[i].splits) for i in own)
    full, rest = divmod(n_rows, N)
    products = full * n_bits + (n_folded(n_bits, rest) if rest and n_bits else 0)
    lookups = n_cells - len(own) + 1 + -(-n_rows // LOOKUP_TREES.N)  # one leaf of each tree is left out
    if n_cells > MAX_CELLS or products * element_bytes(PRODUCT_OPEN) < lookups * element_bytes(LOOKUP_TREES):
        return Forms((), tuple(sorted(own + both)))
    return Forms(own, both)


def bounds(model: Boosted) -> tuple[int, int]:
    """Return the smallest and the largest total that the model allows, in units.

    Raises ParameterError where they lie too far apart to be opened.
    """
    low, high = model.extremes()
    if high - low >= SCORE_T:
        raise ParameterError(
            f"totals of model {model.name} span {high - low} units, {SCORE_T - 1} fit: use fewer points_decimals"
        )
    return low, high


def holder_parts(model: Boosted, holders: Sequence[str]) -> dict[str, HolderPart]:
    """Return what the request tells each holder of its part.

    Raises ConfigError where the holders of the job are not those of the model.
    """
    missing = model.partners - set(holders)
    strangers = set(holders) - set(model.holder_sha256)
    if missing or strangers:
        names = ", ".join(sorted(missing | strangers))
        raise ConfigError(f"the holders of the job are not those of model {model.name}: see {names}")
    none = np.zeros(0, np.int64)
    return {
        h: HolderPart(
            (part := model.part(h)).n_codes, none, bytes.fromhex(part.map_sha256), bytes.fromhex(model.holder_sha256[h])
        )
        for h in holders
    }


def bank_score_trees(
    session: Session, coordinator: str, rows: Mask, own_codes: CodeArray, model: Boosted, inputs: bytes = b""
) -> Protocol[BatchResult]:
    """Bank: return the total points of the scored rows.

    rows : (n_samples,) which of the aligned rows are scored.
    own_codes : (n_scored, d_bank), the bank's codes of those rows.
    inputs : as in `veilscore.protocols.scoring.bank_score`.
    """
    n_scored = int(rows.sum())
    low, high = bounds(model)
    yield Send(coordinator, pb.BatchBankRound0(n_scored=n_scored, trees=True))
    total, unknown = yield from bank_tree_shares(session, rows, own_codes, model, inputs=inputs)
    total += yield from receive_total(coordinator, n_scored, SCORE_T)
    total = (total - low) % SCORE_T + low
    check_possible(total, low, high, session)
    return BatchResult(total, unknown)


def bank_score_trees_bands(
    session: Session, rows: Mask, own_codes: CodeArray, model: Boosted, bands: Bands, inputs: bytes = b""
) -> Protocol[BandResult]:
    """Bank: return the bands or steps of the scored rows; parameters as in `bank_score_trees`.

    Raises ParameterError where totals do not fit the ring as signed numbers.
    """
    BandCircuit(bands.limits, SCORE_T).check_totals(*bounds(model))
    total, unknown = yield from bank_tree_shares(session, rows, own_codes, model, bands, inputs)
    return BandResult((yield from bank_bands(session, total, bands, SCORE_T)), unknown)


def bank_tree_shares(
    session: Session,
    rows: Mask,
    own_codes: CodeArray,
    model: Boosted,
    bands: Bands | None = None,
    inputs: bytes = b"",
) -> Protocol[tuple[Units, dict[str, Mask | None]]]:
    """Return the bank's shares of the totals, not reduced, and the firms unknown to each holder that discloses them."""
    parts = holder_parts(model, session.holders)
    unknown = yield from ask_holders(session, rows, parts, model.sha256, bands, inputs)
    total = yield from bank_tree_points_share(session, own_codes, model, session.holders)
    return total, unknown


def bank_tree_points_share(
    session: Session, own_codes: CodeArray, model: Boosted, holders: Sequence[str]
) -> Protocol[Units]:
    """Return the bank's share (n_scored,) of totals, not reduced, with the trees of these holders."""
    n_scored = own_codes.shape[0]
    plans = {h: _BankTrees(model, h, n_scored) for h in holders}
    total = np.full(n_scored, model.base_points, np.int64)
    for tree, points in zip(model.trees, model.points, strict=True):
        if tree.asks == "bank":
            total += coefficients(tree, np.array(points, np.int64), own_codes, model.parts[0].n_codes)[0]
    for done, plan in enumerate(plans.values(), start=1):
        if plan.forms.looked_up:
            total += yield from plan.look_up(session, n_scored)
        if plan.forms.multiplied:
            total += yield from plan.multiply(session, own_codes)
        yield Progress("trees under encryption", done, len(plans))
    return total


class _BankTrees:
    """Computes the bank's side of one holder's trees."""

    def __init__(self, model: Boosted, holder: str, n_rows: int) -> None:
        self._model, self._holder = model, holder
        self._parts = model.parts_of(holder)
        self.forms = forms(self._parts, n_rows)

    def look_up(self, session: Session, n_rows: int) -> Protocol[Units]:
        """Return the bank's share of the trees that split on the holder's columns alone, (n_rows,)."""
        chosen = self.forms.looked_up
        n_codes = np.array([self._parts[i].n_leaves for i in chosen], dtype=np.int64)
        label = session.label("score trees", self._holder, session.bank)
        table = LookupTable(n_rows, n_codes, label, params=LOOKUP_TREES)
        points = np.concatenate(self._model.points_of(self._holder, chosen)).astype(np.int64)
        yield from begin_lookup(table, self._holder, points % SCORE_T)
        return (yield from finish_lookup(table, self._holder))

    def multiply(self, session: Session, codes: CodeArray) -> Protocol[Units]:
        """Return the bank's share of the other trees, (n_rows,), block by block."""
        n_blocks = -(-codes.shape[0] // N)
        n_bits = sum(len(self._parts[i].holder_splits) for i in self.forms.multiplied)
        check_product(n_bits, n_blocks * N, PRODUCT_OPEN)
        key = ProductKey(_product_label(session, self._holder), params=PRODUCT_OPEN, openings=n_blocks * N)
        yield Send(self._holder, pb.BatchBankKey(product_public=key.public()))
        total = np.zeros(codes.shape[0], np.int64)
        with ThreadPoolExecutor(WORKERS) as pool:
            for block, part, chunk in ahead(pool, self._groups(key, codes, total)):
                if part == 0 and block > 1:  # two blocks behind, so that neither side waits while the other computes
                    yield from self._reply(key, block - 2, total)
                yield Send(self._holder, pb.BatchBankFactors(block=block, part=part, ciphertext_enc=chunk))
        for block in range(max(0, n_blocks - 2), n_blocks):
            yield from self._reply(key, block, total)
        return total

    def _groups(
        self, key: ProductKey, codes: CodeArray, total: Units
    ) -> Iterator[Callable[[], tuple[int, int, bytes]]]:
        """Yield the work of each message in order; add what needs nothing of the holder to the total."""
        for block in range(-(-codes.shape[0] // N)):
            rows = slice(block * N, (block + 1) * N)
            constant, factors = self._model.factors(self._holder, self.forms.multiplied, codes[rows])
            total[rows] += constant
            for part, start in enumerate(range(0, factors.shape[0], GROUP)):
                yield _encryption(key, block, part, factors[start : start + GROUP])

    def _reply(self, key: ProductKey, block: int, total: Units) -> Protocol[None]:
        message = yield from receive(self._holder, pb.BatchHolderReply)
        if message.block != block:
            raise MessageError(f"block {message.block} came where {block} was due", party=self._holder)
        rows = slice(block * N, min((block + 1) * N, total.size))
        total[rows] += key.decrypt([message.reply_enc], rows.stop - rows.start).astype(np.int64)


def _encryption(key: ProductKey, block: int, part: int, factors: Units) -> Callable[[], tuple[int, int, bytes]]:
    def work() -> tuple[int, int, bytes]:
        (chunk,) = key.encrypt((factors % SCORE_T).astype(np.uint64))
        return block, part, chunk

    return work


def _product_label(session: Session, holder: str) -> bytes:
    return session.label("score trees, product", session.bank, holder)


# --- holder ----------------------------------------------------------------------------------------------------------


def holder_score_trees(
    session: Session, coordinator: str, request: BatchRequest, answer: HolderAnswer, trees: Sequence[Tree]
) -> Protocol[int]:
    """Holder: answer a batch; return the number of rows that it helped to score.

    trees : its part of the model, of which the request names the hash (the caller checks that).
    Raises RefusedError with the holder's own reason, after the bank was told.
    """
    keys = yield from accept(session, request, answer)
    share = yield from holder_tree_share(session, answer.codes, answer.n_codes, trees)
    yield from release_share(session, coordinator, request, answer, share, keys, SCORE_T)
    return int(request.rows.sum())


def holder_tree_share(session: Session, codes: CodeArray, n_codes: Integers, trees: Sequence[Tree]) -> Protocol[Words]:
    """Holder: return its share of the totals of its trees, (n_scored,)."""
    n_scored = codes.shape[0]
    plan = forms(trees, n_scored)
    share = np.zeros(n_scored, np.uint64)
    if plan.looked_up:
        share += yield from _holder_look_up(session, codes, n_codes, [trees[i] for i in plan.looked_up])
    if plan.multiplied:
        share += yield from _holder_multiply(session, codes, n_codes, [trees[i] for i in plan.multiplied])
    return share % np.uint64(SCORE_T)


def _holder_look_up(session: Session, codes: CodeArray, n_codes: Integers, trees: Sequence[Tree]) -> Protocol[Words]:
    """Return the holder's share of the trees on its columns alone, (n_scored,)."""
    n_leaves = np.array([tree.n_leaves for tree in trees], dtype=np.int64)
    leaves = leaf_index(trees, codes, n_codes)
    label = session.label("score trees", session.party, session.bank)
    lookup = LookupCodes(leaves, n_leaves, label, params=LOOKUP_TREES, workers=WORKERS)
    del leaves
    return (yield from answer_lookup(session.bank, lookup))


def _holder_multiply(session: Session, codes: CodeArray, n_codes: Integers, trees: Sequence[Tree]) -> Protocol[Words]:
    """Return the holder's share of the other trees, (n_scored,), block by block."""
    n_rows = codes.shape[0]
    n_blocks = -(-n_rows // N)
    start = yield from receive(session.bank, pb.BatchBankKey)
    label = _product_label(session, session.party)
    evaluator = ProductEvaluator(bytes(start.product_public), label, params=PRODUCT_OPEN, openings=n_blocks * N)
    share = np.empty(n_rows, np.uint64)
    with ThreadPoolExecutor(WORKERS) as pool:
        for block in range(n_blocks):
            rows = slice(block * N, min((block + 1) * N, n_rows))
            bits = np.concatenate([indicators(tree, codes[rows], n_codes) for tree in trees])
            sums: list[Future[Limbs]] = []
            for part, first in enumerate(range(0, bits.shape[0], GROUP)):
                message = yield from receive(session.bank, pb.BatchBankFactors)
                if (message.block, message.part) != (block, part):
                    raise MessageError("the bank's factors came out of order", party=session.bank)
                if part >= AHEAD:
                    sums[part - AHEAD].result()
                group = bits[first : first + GROUP].astype(np.uint64)
                sums.append(pool.submit(evaluator.partial_sum, message.ciphertext_enc, group))
            done = [one.result() for one in sums]
            reply, share[rows] = evaluator.close_sum(done, bits.shape[0], rows.stop - rows.start)
            yield Send(session.bank, pb.BatchHolderReply(block=block, reply_enc=reply))
            yield Progress("blocks of rows", block + 1, n_blocks)
    return share
