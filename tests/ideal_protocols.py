"""Private openings at the speed of their noise: the real roles on ideal encryption, driven without threads.

A protocol hides sums as shares: the bank's own, and a holder's that is noised and sent. Lattices, transfers and garbled
tables serve only to get these shares. Here they are replaced by what they are proved to be: uniform shares of the exact
sums. Everything from there on is the product's own: charge, deviation, noise, rounding, message and its bytes, and how
the bank adds them to its share. So a draw has the distribution of a whole protocol run, in a hundredth of its time.
That the real ones give exact sums and uniform shares is tested beside each of them (test_lattice_*, test_bit_product,
test_curve, test_chains); `attacks/test_promise.py` compares both ways of running, too.
"""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace

import numpy as np

from veilscore.crypto import shares
from veilscore.crypto.circuits import to_bits
from veilscore.crypto.garbled import Plain
from veilscore.lattice.params import INNER, T
from veilscore.lattice.rounding import exact_scale
from veilscore.protocols import best_columns, chains, curve, decision_counts, residual
from veilscore.protocols.bit_products import NO_BITS, NO_VALUES
from veilscore.protocols.boosting_nodes import subtract
from veilscore.v1 import boosting_pb2, screening_pb2
from veilscore.v1 import score_pb2 as pb
from veilscore.wire.protocol import (
    Charge,
    Receive,
    Send,
    decode,
    encode,
    fields_bytes,
    receive,
    receive_parts,
    send_parts,
)

_SLOTS = 64  # of an ideal ciphertext; real ones have 8192
_RNG = np.random.default_rng()


def uniform(*shape):
    return _RNG.integers(0, T, shape, np.uint64)


def _mod(values, modulus):
    return (values % modulus).astype(np.uint64)


def _words(data, *shape):
    return np.frombuffer(data, np.uint64).reshape(*shape).copy()


def drive(roles, sessions, spend=None):
    """Run all roles of a session to their end; return each result and all messages as (sender, to, kind, bytes)."""
    parties = {name: _Party(role, sessions[name], (spend or {}).get(name)) for name, role in roles.items()}
    queues, seen = defaultdict(deque), []
    while not all(party.ended for party in parties.values()):
        moved = [party.goes_on(queues, seen) for party in parties.values()]
        assert any(moved), "all wait for one another"
    return {name: party.result for name, party in parties.items()}, seen


class _Party:
    """Runs one role as far as messages allow."""

    def __init__(self, role, session, spend):
        self._role, self._session, self._spend = role, session, spend
        self._asked, self.ended, self.result = None, False, None

    def goes_on(self, queues, seen):
        """Return whether it did anything."""
        moved = False
        while not self.ended and (answer := self._answer(queues)) is not _NONE_YET:
            moved = True
            try:
                command = self._role.send(answer)
            except StopIteration as stop:
                self.ended, self.result = True, stop.value
                break
            if isinstance(command, Send):
                data = encode(command.message)
                seen.append((self._session.party, command.to, type(command.message), data))
                queues[self._session.party, command.to].append(data)
            elif isinstance(command, Receive):
                self._asked = command
            elif isinstance(command, Charge):
                self._spend(command)
        return moved

    def _answer(self, queues):
        if self._asked is None:
            return None
        asked, queue = self._asked, queues[self._asked.sender, self._session.party]
        if not queue:
            return _NONE_YET
        self._asked = None
        return decode(queue.popleft(), asked.kind, session=self._session.id, sender=asked.sender)


_NONE_YET = object()


# --- sums by cell ----------------------------------------------------------------------------------------------------


class Vectors:
    """Stands for `HistogramVectors`: the bank draws its share, and the holder gets the rest."""

    hint_bytes = hint_unit = 1

    def __init__(self, n_samples, n_codes, _label, _hints=()):
        self._n, self._n_codes = n_samples, np.asarray(n_codes)
        self._cells = int(np.sum(n_codes))

    def add_hints(self, _chunk):
        pass

    def columns(self, columns):
        return Vectors(self._n, self._n_codes[columns], b"")

    def query(self, x):
        own = uniform(len(x), self._cells)
        return SimpleNamespace(
            b=x.tobytes(), beta=own.tobytes(), alpha=b"", pack=lambda: x.tobytes() + own.tobytes()
        ), own


class Codes:
    """Stands for `HistogramCodes`."""

    hint_bytes = 1

    def __init__(self, codes, n_codes, _label, **_options):
        self._codes, self._n_codes = np.ascontiguousarray(codes), np.asarray(n_codes)
        self._n, self._cells = codes.shape[0], int(np.sum(n_codes))

    def columns(self, columns):
        return Codes(self._codes[:, columns], self._n_codes[columns], b"")

    def hint_chunks(self):
        return [b"h"]

    def fields_bytes(self, n_vectors):
        return fields_bytes(n_vectors * 8 * self._n, n_vectors * 8 * self._cells, 0)

    @property
    def query_bytes(self):
        return 8 * (self._n + self._cells)

    def unpack(self, data):
        at = len(data) // self.query_bytes * 8 * self._n
        return SimpleNamespace(b=data[:at], beta=data[at:])

    def evaluate(self, query):
        x = _words(query.b, -1, self._n)
        return subtract(shares.cell_sums(self._codes, self._n_codes, x), _words(query.beta, len(x), self._cells))


class Table:
    """Stands for `LookupTable`."""

    hint_bytes = hint_unit = 1

    def __init__(self, n_samples, _n_codes, _label, *, params):
        self._n, self._t = n_samples, params.t

    def add_hints(self, _chunk):
        pass

    def query(self, theta):
        own = uniform(self._n) % np.uint64(self._t)
        return SimpleNamespace(pack=lambda: shares.to_ring(theta, self._t).tobytes() + own.tobytes()), own


class TableCodes:
    """Stands for `LookupCodes`, of one column."""

    hint_bytes = 1

    def __init__(self, codes, n_codes, _label, *, params):
        self._codes, self._cells, self._t = codes[:, 0], int(n_codes[0]), np.uint64(params.t)

    def hint_chunks(self):
        return [b"h"]

    @property
    def query_bytes(self):
        return 8 * (self._codes.size + self._cells)

    def evaluate_bytes(self, data):
        table, theirs = _words(data[: 8 * self._cells], -1), _words(data[8 * self._cells :], -1)
        return (table[self._codes] + self._t - theirs) % self._t


class Key:
    """Stands for `ProductKey`."""

    def __init__(self, _label):
        pass

    def public(self):
        return b""

    def encrypt(self, u):
        if u.shape[1] <= _SLOTS:
            return iter([u.tobytes()])
        return (np.ascontiguousarray(u[:, at : at + _SLOTS]).tobytes() for at in range(0, u.shape[1], _SLOTS))

    def decrypt(self, reply, n_samples, n_outputs=None):
        found = _words(b"".join(reply), -1)
        return found[:n_samples] if n_outputs is None else found.reshape(n_outputs, n_samples)


class Evaluator:
    """Stands for `ProductEvaluator`."""

    def __init__(self, _public, _label):
        pass

    def multiply_sum(self, ciphertexts, v):
        u = _words(ciphertexts[0], *v.shape)
        share = uniform(v.shape[1])
        return [subtract(shares.sum_shares(shares.times(u, v), axis=0), share).tobytes()], share


class SumsOfProducts:
    """Stands for `InnerKey` and, at the holder, for `InnerEvaluator`."""

    def __init__(self, *label_or_public_and_terms):
        self._terms = label_or_public_and_terms[-1]
        self._sums = 0

    def public(self):
        return b"key"

    def encrypt(self, u):
        return u.tobytes()

    def add(self, chunk, n_vectors, v):
        c, vectors = _words(chunk, n_vectors, -1).astype(object), exact_scale(INNER).join(v).astype(object)
        products = [(c[one[:, 0]] * vectors[one[:, 1]]).sum() for one in self._terms]
        self._sums = (self._sums + np.array(products, object)) % INNER.t

    def reply(self):
        share = _mod(uniform(len(self._terms)), INNER.t)
        return _mod(self._sums - share.astype(object), INNER.t).tobytes(), share

    def share(self, reply, n_sums):
        return _words(reply, n_sums)


# --- bits times numbers, and steps of totals -------------------------------------------------------------------------


def _setup(_session, peer):
    return peer
    yield


def _products(peer, bits, n_theirs, values):
    """Stand for `bit_products`: the owner of numbers draws its share, and the owner of bits gets the rest."""
    given = uniform(*values.shape)
    if values.size:
        yield Send(peer, boosting_pb2.BoostProducts(data=values.tobytes() + given.tobytes()))
    taken = np.zeros((n_theirs, bits.size), np.uint64)
    if bits.size:
        message = yield from receive(peer, boosting_pb2.BoostProducts)
        theirs, share = _words(message.data, 2, n_theirs, bits.size)
        taken = subtract(np.where(bits, theirs, np.uint64(0)), share)
    return taken, given


def _chosen(_peer, bits):
    """Stand for `choose_bits` and, of a number of bits, for `take_choices`: rows that nobody looks at."""
    return np.zeros((bits if isinstance(bits, int) else bits.size, 2), np.uint64)
    yield


def _take(peer, bits, _rows, n_theirs):
    return (yield from _products(peer, bits, n_theirs, NO_VALUES))[0]


def _give(peer, _rows, values):
    return (yield from _products(peer, NO_BITS, 1, values))[1]


def _bank_garbled(session, share, circuit, read, *, ahead=1):
    yield Send(session.lead, pb.BandBankLabels(data=((share + circuit.half) % circuit.modulus).astype("<i8").tobytes()))
    message = yield from receive(session.lead, pb.BandLeadTables)
    colours = np.frombuffer(message.data, bool).reshape(-1, share.size)
    decoded = SimpleNamespace(decode=lambda _word, _none: colours)
    yield from read(slice(0, share.size), decoded, np.zeros((*colours.shape, 1)))


def _lead_garbled(session, share, circuit, release):
    message = yield from receive(session.bank, pb.BandBankLabels)
    total = (np.frombuffer(message.data, "<i8") + share.astype(np.int64)) % circuit.modulus
    places = np.arange(circuit.n_bits)[:, None]
    lifted = (total[None] >> places & 1).astype(bool)
    found = circuit(Plain(), lifted, np.zeros_like(lifted))
    bits = _RNG.random(found.shape) < 0.5
    yield Send(session.bank, pb.BandLeadTables(data=(found ^ bits).tobytes()))
    yield from release(SimpleNamespace(decoding=lambda _word: bits), None)


class _Open(Plain):
    """Stands for a garbler: its own inputs are as they are."""

    def own(self, bits):
        return bits


def _bank_evaluated(session, bits, _gates, _run, read, *, begin=None, ahead=1):
    yield Send(session.lead, pb.BandBankLabels(data=np.packbits(bits).tobytes()))
    message = yield from receive(session.lead, pb.BandLeadTables)
    colours = np.frombuffer(message.data, bool).reshape(-1, bits.shape[1])
    decoded = SimpleNamespace(decode=lambda _word, _none: colours)
    yield from read(slice(0, bits.shape[1]), decoded, np.zeros((*colours.shape, 1)))


def _lead_garbles(session, shape, run, release, begin=None):
    message = yield from receive(session.bank, pb.BandBankLabels)
    theirs = np.unpackbits(np.frombuffer(message.data, np.uint8), count=shape[0] * shape[1]).astype(bool)
    found = run(_Open(), theirs.reshape(shape), slice(0, shape[1]))
    bits = _RNG.random(found.shape) < 0.5
    yield Send(session.bank, pb.BandLeadTables(data=(found ^ bits).tobytes()))
    yield from release(slice(0, shape[1]), SimpleNamespace(decoding=lambda _word: bits), None)


# --- the best columns ------------------------------------------------------------------------------------------------


class Sums:
    """Stands for `SumsKey` and, at the holder, `SumsEvaluator`."""

    def __init__(self, _label, n_samples, _public=b""):
        self._n, self._x = n_samples, b""

    def public(self):
        return b""

    def encrypt(self, x):
        return iter([x.tobytes()])

    def add(self, data):
        self._x += data

    def weighted(self, weights):
        signed = shares.to_ring(weights.astype(np.int64))
        sums = shares.sum_shares(shares.times(signed, _words(self._x, 1, self._n)), axis=1)
        share = uniform(len(weights))
        return subtract(sums, share).tobytes(), share

    def share(self, reply, n_sums):
        return _words(reply, n_sums)


def _bank_best(_session, holder, share, _k):
    yield from send_parts(holder, screening_pb2.ScreenSealed, share.tobytes())


def _holder_best(session, share, noise, k):
    theirs = _words((yield from receive_parts(session.bank, screening_pb2.ScreenSealed, 8 * share.size)), -1)
    lifted = shares.add(theirs, np.full(share.size, best_columns._LIFT, np.uint64))
    words = (to_bits(part, best_columns.SHARE_BITS) for part in (lifted, share))
    circuit = best_columns.best_of(Plain(), *words, to_bits(noise, best_columns.SCORE_BITS), k)
    while True:
        try:
            next(circuit)
        except StopIteration as stop:
            return stop.value


_IDEAL = {
    best_columns: {
        "SumsKey": Sums,
        "SumsEvaluator": Sums,
        "query_bytes": lambda n_samples: 8 * n_samples,
        "reply_bytes": lambda _n_samples, n_sums: 8 * n_sums,
        "_bank_circuit": _bank_best,
        "_holder_circuit": _holder_best,
    },
    residual: {
        "HistogramVectors": Vectors,
        "HistogramCodes": Codes,
        "HistogramQuery": lambda b, beta, _alpha: SimpleNamespace(b=b, beta=beta),
        "LookupTable": Table,
        "LookupCodes": TableCodes,
        "ProductKey": Key,
        "ProductEvaluator": Evaluator,
        "InnerKey": SumsOfProducts,
        "InnerEvaluator": SumsOfProducts,
        "N": _SLOTS,
        "reply_bytes": lambda n_sums: 8 * n_sums,
    },
    chains: {
        "HistogramVectors": Vectors,
        "HistogramCodes": Codes,
        "bit_setup": _setup,
        "bit_products": _products,
        "choose_bits": _chosen,
        "take_choices": _chosen,
        "take_products": _take,
        "give_products": _give,
    },
    curve: {
        "bit_setup": _setup,
        "bit_products": _products,
        "bank_garbled": _bank_garbled,
        "lead_garbled": _lead_garbled,
    },
    decision_counts: {
        "bit_setup": _setup,
        "bit_products": _products,
        "bank_evaluated": _bank_evaluated,
        "lead_garbles": _lead_garbles,
    },
}
_REAL = {module: {name: getattr(module, name) for name in names} for module, names in _IDEAL.items()}


def use_ideal(monkeypatch):
    """Replace encryption below the roles of private openings until the test ends."""
    _put(_IDEAL, monkeypatch)


def use_real(monkeypatch):
    """Take back what `use_ideal` did."""
    _put(_REAL, monkeypatch)


def _put(parts, monkeypatch):
    for module, names in parts.items():
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)
