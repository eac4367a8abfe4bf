"""The best split of each node with nothing opened: gains are compared on shares, the winner goes to its owner.

Source   : half gates over the shares (`crypto/garbled.py`), labels by oblivious transfer (`crypto/oblivious.py`),
           secure products; the criterion is derived in `sealed_gain.py`.
Parties  : the bank (evaluates, keys of the first product) and one holder (garbles, keys of the second).
Messages : once, set-up both ways. Per call: bank: wrap bits; holder: their products, encrypted sums; bank: products,
           label choices; holder: garbled tables; bank: nodes that split, masked winners; holder: masks.
Reveals  : to the bank, which nodes split, whose column wins, and its own winners; to the holder the same with its own.
           No sum, no gain, no size of a node.
Assumes  : semi-honest parties, ring-LWE, computational Diffie-Hellman in ristretto255, AES as a random permutation.
Aborts   : MessageError on any wrong size or range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from google.protobuf.message import Message

from veilscore.arrays import Integers, Mask
from veilscore.crypto import shares
from veilscore.crypto.circuits import from_bits, to_bits
from veilscore.crypto.garbled import GATE_BYTES, Evaluator, Garbler
from veilscore.crypto.group import POINT_BYTES
from veilscore.crypto.oblivious import WIDTH as LABEL_BITS
from veilscore.crypto.oblivious import LabelReceiver, LabelSender, message_bytes
from veilscore.errors import MessageError
from veilscore.lattice.params import PRODUCT, T
from veilscore.lattice.product import PUBLIC_BYTES, REPLY_BYTES, ProductEvaluator, ProductKey, ciphertext_bytes
from veilscore.lattice.slots import block_rows, n_folded
from veilscore.protocols.sealed_circuit import best_splits, gates_of_node
from veilscore.protocols.sealed_gain import Factors, GainRule, Sums, narrow, plus, upper_bit
from veilscore.wire.protocol import (
    Protocol,
    Session,
    fields_bytes,
    pack_fields,
    receive_parts,
    send_parts,
    unpack_fields,
)
from veilscore.wire.randomness import secret_bytes

WIDTH = 1024  # candidates garbled at once: tables of one piece, about 8 MB, go out while the next is made
_SUMS = 4  # vectors of the second product: GL, a + b, G, a


@dataclass(frozen=True)
class Winners:
    """What one party hears.

    splits : (nodes,) bool, the node has a valid split.
    mine : (nodes,) bool, and it is on this party's column.
    candidate : (nodes,) int64, number of the winner among this party's candidates; -1 where it is not its own.
    """

    splits: Mask
    mine: Mask
    candidate: Integers


@dataclass(frozen=True)
class BankKeys:
    """The bank's secrets of one session with one holder."""

    holder: str
    kind: type[Message]
    product: ProductKey
    evaluator: ProductEvaluator
    labels: LabelReceiver
    circuit: Evaluator


@dataclass(frozen=True)
class HolderKeys:
    """The holder's secrets of one session."""

    bank: str
    kind: type[Message]
    product: ProductKey
    evaluator: ProductEvaluator
    labels: LabelSender
    circuit: Garbler


# --- set-up ---


def bank_setup(session: Session, holder: str, kind: type[Message]) -> Protocol[BankKeys]:
    """Once a session and holder; `kind` is a message with fields part, parts and data."""
    names = _labels(session, session.bank, holder)
    labels, key = LabelReceiver(names[2]), ProductKey(names[0])
    yield from send_parts(holder, kind, pack_fields(labels.base(), key.public()))
    data = yield from receive_parts(holder, kind, fields_bytes(LABEL_BITS * POINT_BYTES, PUBLIC_BYTES))
    choices, public = unpack_fields(data, 2)
    labels.accept(choices)
    return BankKeys(holder, kind, key, ProductEvaluator(public, names[1]), labels, Evaluator(names[2]))


def holder_setup(session: Session, kind: type[Message]) -> Protocol[HolderKeys]:
    """Holder's side of `bank_setup`."""
    names = _labels(session, session.bank, session.party)
    data = yield from receive_parts(session.bank, kind, fields_bytes(POINT_BYTES, PUBLIC_BYTES))
    base, public = unpack_fields(data, 2)
    labels, key = LabelSender(names[2], base), ProductKey(names[1])
    yield from send_parts(session.bank, kind, pack_fields(labels.choices(), key.public()))
    evaluator = ProductEvaluator(public, names[0])
    return HolderKeys(session.bank, kind, key, evaluator, labels, Garbler(names[2], labels.offset))


def _labels(session: Session, bank: str, holder: str) -> tuple[bytes, bytes, bytes]:
    return (
        session.label("sealed argmax, wraps", bank, holder),
        session.label("sealed argmax, sums", holder, bank),
        session.label("sealed argmax, circuit", holder, bank),
    )


# --- one level ---


def bank_argmax(keys: BankKeys, rule: GainRule, sums: Sums) -> Protocol[Winners]:
    """The bank's side: best split of every node of a level."""
    to, kind = keys.holder, keys.kind
    nodes = sums.g.size
    lifted = plus(sums.flat(rule), T // 4)  # the sums are now in [0, T/2)
    wrap = upper_bit(lifted)
    yield from send_parts(to, kind, b"".join(keys.product.encrypt(wrap[None])))
    n_encrypted = sum(_ciphertext_sizes(_SUMS, nodes * rule.n_candidates))
    data = yield from receive_parts(to, kind, fields_bytes(REPLY_BYTES * _blocks(wrap.size), n_encrypted))
    reply, encrypted = unpack_fields(data, 2)
    both = keys.product.decrypt(_pieces(reply, [REPLY_BYTES] * _blocks(wrap.size)), wrap.size)
    factors = Factors.of(narrow(lifted, both, rule), nodes, rule, bank=True)
    sizes = _ciphertext_sizes(_SUMS, factors.gl.size)
    answer, share = keys.evaluator.multiply_sum(_pieces(encrypted, sizes), factors.bank_side())
    candidates, level = factors.words(share, rule, bank=True)
    choice, candidate_labels = keys.labels.extend(candidates)
    node_choice, node_labels = keys.labels.extend(level)
    yield from send_parts(to, kind, pack_fields(b"".join(answer), choice, node_choice))
    outputs = []
    for piece in _node_pieces(nodes, rule):
        count = piece.stop - piece.start
        keys.circuit.feed((yield from receive_parts(to, kind, GATE_BYTES * gates_of_node(rule) * count)))
        mine = candidate_labels[:, piece], node_labels[:, piece]
        theirs = [keys.circuit.own((len(m), count, *m.shape[2:-1])) for m in mine]
        masks = keys.circuit.own((rule.index_bits, count))
        outputs.append(best_splits(keys.circuit, rule, (mine[0], theirs[0]), (mine[1], theirs[1]), masks))
        keys.circuit.done()
    word = np.concatenate(outputs, axis=1)
    n_bits = word[..., 0].size
    decoding = shares.bits_from_bytes((yield from receive_parts(to, kind, -(-n_bits // 8))), n_bits)
    bits = keys.circuit.decode(word, decoding.reshape(word.shape[:-1]))
    splits, theirs_wins, masked = bits[0], bits[1], bits[2:]
    yield from send_parts(to, kind, shares.bits_to_bytes(np.concatenate([bits[:2], masked & theirs_wins]).reshape(-1)))
    mine_wins = splits & ~theirs_wins
    masks_data = yield from receive_parts(to, kind, -(-masked.size // 8))
    mask = shares.bits_from_bytes(masks_data, masked.size).reshape(masked.shape)
    return _winners(splits, mine_wins, from_bits(masked ^ mask), rule.n_bank)


def holder_argmax(keys: HolderKeys, rule: GainRule, sums: Sums) -> Protocol[Winners]:
    """The holder's side of `bank_argmax`."""
    to, kind = keys.bank, keys.kind
    nodes = sums.g.size
    flat = sums.flat(rule)
    wrap = upper_bit(flat)
    sizes = _ciphertext_sizes(1, wrap.size)
    wraps = yield from receive_parts(to, kind, sum(sizes))
    amount = wrap * np.uint64(T >> rule.drop_bits)
    reply, both = keys.evaluator.multiply_sum(_pieces(wraps, sizes), amount[None])
    factors = Factors.of(narrow(flat, both, rule), nodes, rule, bank=False)
    encrypted = b"".join(keys.product.encrypt(factors.holder_side()))
    yield from send_parts(to, kind, pack_fields(b"".join(reply), encrypted))
    n_rows = factors.gl.size
    bits = (rule.c_bits + 1 + rule.d_bits) * n_rows, (rule.d_bits + rule.h_bits) * nodes
    due = fields_bytes(2 * REPLY_BYTES * _blocks(n_rows), *map(message_bytes, bits))
    answer, choice, node_choice = unpack_fields((yield from receive_parts(to, kind, due)), 3)
    share = keys.product.decrypt(_pieces(answer, [REPLY_BYTES] * (2 * _blocks(n_rows))), n_rows, 2)
    candidates, level = factors.words(share, rule, bank=False)
    theirs = keys.labels.extend(choice, candidates.shape), keys.labels.extend(node_choice, level.shape)
    mask = to_bits(np.frombuffer(secret_bytes(8 * nodes), "<u8"), rule.index_bits)
    outputs = []
    for piece in _node_pieces(nodes, rule):
        mine = keys.circuit.own(candidates[:, piece]), keys.circuit.own(level[:, piece])
        pairs = [(theirs[i][:, piece], mine[i]) for i in range(2)]
        outputs.append(best_splits(keys.circuit, rule, pairs[0], pairs[1], keys.circuit.own(mask[:, piece])))
        yield from send_parts(to, kind, keys.circuit.tables())
    word = np.concatenate(outputs, axis=1)
    yield from send_parts(to, kind, shares.bits_to_bytes(keys.circuit.decoding(word).reshape(-1)))
    n_bits = word[..., 0].size
    told = yield from receive_parts(to, kind, -(-n_bits // 8))
    decoded = shares.bits_from_bytes(told, n_bits).reshape(word.shape[:-1])
    splits, mine_wins = decoded[0], decoded[0] & decoded[1]
    yield from send_parts(to, kind, shares.bits_to_bytes((mask & (splits & ~mine_wins)).reshape(-1)))
    found = from_bits(decoded[2:] ^ mask) - rule.n_bank
    return _winners(splits, mine_wins, found, rule.n_holder)


# --- wire ---


def openings(candidates: int, nodes: int) -> int:
    """Coefficients that a level opens with either key, at most."""
    sums, products = _blocks(2 * nodes * (candidates + 1)), 2 * _blocks(nodes * candidates)
    return max(sums, products) * PRODUCT.N


def _blocks(n_rows: int) -> int:
    return -(-n_rows // PRODUCT.N)


def _ciphertext_sizes(n_vectors: int, n_rows: int) -> list[int]:
    return [ciphertext_bytes(n_folded(n_vectors, block_rows(n_rows, k))) for k in range(_blocks(n_rows))]


def _pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut a message where its parts must end."""
    ends = np.cumsum(sizes).tolist()
    if len(data) != ends[-1]:
        raise MessageError(f"expected {ends[-1]} bytes of ciphertexts, got {len(data)}")
    return [data[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _node_pieces(nodes: int, rule: GainRule) -> list[slice]:
    step = max(1, WIDTH // rule.n_candidates)
    return [slice(start, min(start + step, nodes)) for start in range(0, nodes, step)]


def _winners(splits: Mask, mine: Mask, candidate: Integers, n_own: int) -> Winners:
    if ((candidate < 0) | (candidate >= n_own))[mine].any():
        raise MessageError("a winning split is not among this party's candidates")
    return Winners(splits, mine, np.where(mine, candidate, -1))
