"""The band of one firm online: bank and lead hold shares of its total, and the band is opened to the bank alone.

Source   : the circuit of `veilscore.protocols.banding` for one row; shares of `veilscore.protocols.online`, modulo T.
Parties  : the bank (evaluates; its share is its own units less its masks), the lead (garbles; its share is the sum of
           the holders' partials).
Messages : base point -> base choices, which need neither firm nor share and are made ahead; labels -> tables, decoding.
Reveals  : to the bank, the number of the band. To the lead, nothing: the holders' sum is uniform without the masks.
Assumes  : as `banding`. A set-up serves one circuit and lives in memory only: so does its offset. All that the bank
           draws comes from a seed that it is committed to before the lead answers, so that an auditor can tell which
           share it put in (ADR 12).
Aborts   : MessageError on any wrong size or point, or a band that there is not; SecretReuseError at the lead where a
           set-up is to serve twice.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from veilscore.arrays import Words
from veilscore.crypto import shares
from veilscore.crypto.circuits import from_bits, to_bits
from veilscore.crypto.garbled import GATE_BYTES, Evaluator, Garbler
from veilscore.crypto.he import T
from veilscore.crypto.oblivious import LabelReceiver, LabelSender
from veilscore.errors import MessageError, SecretReuseError
from veilscore.protocols.banding import BandCircuit
from veilscore.terms.bands import Bands
from veilscore.wire.protocol import pack_fields
from veilscore.wire.randomness import derived, seeded


def names_of(bank: str, lead: str, setup_id: str) -> bytes:
    """Label of one set-up, the same on both sides."""
    return pack_fields(b"veilscore/1 online band", bank.encode(), lead.encode(), setup_id.encode())


@lru_cache(maxsize=64)
def _circuit(limits: tuple[int, ...]) -> BandCircuit:
    """Circuits are kept: counting the gates of one takes as long as running it."""
    return BandCircuit(limits, T)


class BankBand:
    """The bank's side.

    Parameters
    ----------
    names : `names_of` the set-up.
    seed : of all secrets of this set-up; of no other.
    """

    def __init__(self, names: bytes, seed: bytes) -> None:
        self._names, self._seed = names, seed
        self._receiver = seeded(derived(seed, "base"), lambda: LabelReceiver(names))
        self._sent: tuple[BandCircuit, bytes, Any] | None = None

    def __repr__(self) -> str:
        """Show nothing of the labels."""
        return "<BankBand>"

    @property
    def point(self) -> bytes:
        """Base point for the lead."""
        return self._receiver.base()

    def accept(self, choices: bytes) -> None:
        """Take the lead's base choices, once."""
        self._receiver.accept(choices)

    def labels(self, share: int, bands: Bands) -> bytes:
        """Return the message that asks for the labels of the bank's share; once.

        Parameters
        ----------
        share : of the total, of any sign.
        bands : of the model.
        """
        if self._sent is not None:
            raise SecretReuseError("a set-up of labels was to serve a second share")
        circuit = _circuit(bands.limits)
        lifted = np.array([(share + circuit.half) % T], np.uint64)
        bits = to_bits(lifted, circuit.n_bits)
        self._sent = (circuit, *seeded(derived(self._seed, "labels"), lambda: self._receiver.extend(bits)))
        return self._sent[1]

    def open(self, tables: bytes, decoding: bytes) -> int:
        """Run the lead's circuit, after `labels`: number of the band."""
        if self._sent is None:
            raise MessageError("garbled tables came before labels were asked for")
        circuit, _, labels = self._sent
        if len(tables) != GATE_BYTES * circuit.gates:
            raise MessageError(f"{len(tables)} bytes of garbled tables are not those of one band")
        evaluator = Evaluator(self._names)
        evaluator.feed(tables)
        word = circuit(evaluator, labels, evaluator.own((circuit.n_bits, 1)))
        evaluator.done()
        bits = shares.bits_from_bytes(decoding, circuit.index_bits)
        number = int(from_bits(evaluator.decode(word, bits.reshape(-1, 1)))[0])
        if number > len(circuit.limits):
            raise MessageError("the firm came out in a band that there is not")
        return number


class LeadBand:
    """The lead's side: one set-up, for one circuit.

    Parameters
    ----------
    names : `names_of` the set-up.
    point : the bank's base point.
    """

    def __init__(self, names: bytes, point: bytes) -> None:
        self._names = names
        self._sender: LabelSender | None = LabelSender(names, point)
        self.choices = self._sender.choices()

    def __repr__(self) -> str:
        """Show nothing of the offset."""
        return "<LeadBand>"

    def answer(self, labels: bytes, share: Words, bands: Bands) -> tuple[bytes, bytes]:
        """Garble: tables and the bits that decode the band.

        Parameters
        ----------
        labels : the bank's message.
        share : (1,) sum of the holders' partials modulo T.
        bands : that the lead keeps of the model.
        """
        if self._sender is None:
            raise SecretReuseError("a set-up of labels was to serve a second circuit")
        sender, self._sender = self._sender, None
        circuit = _circuit(bands.limits)
        garbler = Garbler(self._names, sender.offset)
        theirs = sender.extend(labels, (circuit.n_bits, 1))
        word = circuit(garbler, theirs, garbler.own(to_bits(share, circuit.n_bits)))
        return garbler.tables(), shares.bits_to_bytes(garbler.decoding(word).reshape(-1))
