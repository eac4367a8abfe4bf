"""Opens how much a tree lowers the loss on the validation rows, one number a tree; both roles.

Source   : docs/protocols/boosting.md. To second order the loss falls by -(G w + H w^2 / 2), summed over the leaves.
Messages : BoostBankBlock -> BoostHolderBlock, BoostHolderImprovement. Parties, reveals and aborts: `boosting.py`.
"""

from __future__ import annotations

import numpy as np

from veilscore.arrays import Words
from veilscore.crypto import shares
from veilscore.errors import MessageError, ParameterError
from veilscore.lattice.product import ProductKey
from veilscore.lattice.sampling import dither
from veilscore.models.boosting_form import EXACT_BITS, SCALE, Growth
from veilscore.models.trees import Tree, coefficients, indicators
from veilscore.protocols.blocks import bank_product, holder_product
from veilscore.protocols.boosting_shares import BankShares, HolderShares
from veilscore.v1 import boosting_pb2 as pb
from veilscore.wire.protocol import Protocol, Send, receive

MAX_WEIGHT_BITS = 16  # fraction bits of leaf weights in the sums over validation rows
_KINDS = (pb.BoostBankBlock, pb.BoostHolderBlock)


def weight_bits(growth: Growth, tree: Tree) -> int:
    """Return how many fraction bits the leaf weights may have so that the sums cannot wrap."""
    largest = max(1.0, *(abs(w) for w in tree.weights)) ** 2
    n_rows = float(growth.validation.sum()) * growth.max_weight
    room = 58 - SCALE - int(np.ceil(np.log2(n_rows * largest + 1)))
    if room < 1:
        raise ParameterError(f"{n_rows:.0f} validation rows do not fit the share ring: hold fewer")
    return min(room, MAX_WEIGHT_BITS)


def bank_improvement(bank: BankShares, key: ProductKey, tree: Tree, gradients: Words) -> Protocol[float]:
    """Bank: return the fall of the loss; gradients are its share (2, n) of g and h."""
    rows, bits = bank.growth.validation, weight_bits(bank.growth, tree)
    w = np.array(tree.weights)
    first, second = (
        coefficients(
            tree, np.rint(np.ldexp(v, bits)).astype(np.int64), bank.data.codes[rows], bank.data.own.ranked.n_codes
        )
        for v in (w, w * w / 2)
    )
    g, h = (np.broadcast_to(share, first.shape) for share in gradients[:, rows])
    own = shares.add(shares.scale(g, first), shares.scale(h, second))
    u = np.concatenate([own[1:], shares.to_ring(first), shares.to_ring(second)])
    product = yield from bank_product(tree.holder, key, int(rows.sum()), lambda r: u[:, r], None, _KINDS)
    share = shares.add(shares.sum_shares(own[0])[None], shares.sum_shares(product)[None])
    message = yield from receive(tree.holder, pb.BoostHolderImprovement)
    opened = shares.shares_from_bytes(message.share, (1,))
    return -float(shares.open_rounded(share, opened, max(0, SCALE + bits - EXACT_BITS), SCALE + bits)[0])


def holder_improvement(holder: HolderShares, tree: Tree, gradients: Words, bits: int) -> Protocol[None]:
    """Holder: help to open it; `bits` are the fraction bits that the bank states."""
    bank, rows = holder.session.bank, holder.growth.validation
    if bits > MAX_WEIGHT_BITS:
        raise MessageError(f"leaf weights have at most {MAX_WEIGHT_BITS} fraction bits, not {bits}", party=bank)
    n = int(rows.sum())
    if not n:
        raise MessageError("the bank asks to validate, the job holds no validation rows", party=bank)
    e = np.concatenate([np.ones((1, n), bool), indicators(tree, holder.codes[rows], holder.n_codes)])
    g, h = gradients[:, rows]
    v = np.concatenate([e[1:].astype(np.uint64), np.where(e, g, np.uint64(0)), np.where(e, h, np.uint64(0))])
    product = yield from holder_product(bank, holder.evaluator, n, lambda r: v[:, r], _KINDS)
    drop = max(0, SCALE + bits - EXACT_BITS)
    share = shares.add(shares.sum_shares(product)[None], dither((1,), sd=float(1 << max(0, drop - 2))))
    yield Send(bank, pb.BoostHolderImprovement(share=shares.shares_to_bytes(shares.round_share(share, drop))))
