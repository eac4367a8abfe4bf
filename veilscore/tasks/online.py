"""Who learns what when single firms are scored: that goes by calls between nodes (control.proto), not by sessions."""

from __future__ import annotations

from typing import Literal

from veilscore.terms.roles import Leak, hidden

_REASONS = "unknown firms and codes of reason columns where policy says so"
_Opened = Literal["score", "band", "decision"]
_OPENED: tuple[tuple[_Opened, str], ...] = (
    ("score", "which of a few steps the firm's points are in (32 at most by default)"),
    ("band", "the firm's band"),
    ("decision", "the firm's step by a filed decision, and the measure that decided where the decision tells it"),
)


def _by_circuit(only: _Opened, learns: str) -> tuple[Leak, ...]:
    """Return what goes where a garbled circuit opens a step or a band."""
    return (
        Leak("BandPartial", "lead", "masked", only=only),
        Leak("MakePool", "lead", "public", only=only),
        Leak("MadePool", "bank", "masked", only=only),
        Leak("ExtendPool", "lead", "masked", only=only),
        Leak("OpenedPartial", "bank", "opened", learns, only=only),
    )


LEARNS: tuple[Leak, ...] = (
    Leak("EncryptRecord", "holder", "opened", "that this firm is scored now, for which purpose, by which model"),
    Leak("EncryptedRecord", "bank", "opened", _REASONS, only="score"),
    Leak("EncryptedRecord", "bank", "opened", _REASONS, only="exact"),
    Leak("EncryptedRecord", "bank", "opened", "unknown firms where policy says so", only="band"),
    Leak("EncryptedRecord", "bank", "opened", "unknown firms where policy says so", only="decision"),
    *hidden("bank", "ciphertext", "PreparedSpare"),
    *hidden("holder", "masked", "FinishSpare", "OpenPartial"),
    *hidden("bank", "public", "HolderKeys"),
    *hidden("holder", "public", "AskKeys", "ShareKey"),
    Leak("AddPartial", "coordinator", "masked", "when holders score, and with whom", only="exact"),
    Leak("TotalReply", "bank", "opened", "the firm's total points", only="exact"),
    *(leak for only, learns in _OPENED for leak in _by_circuit(only, learns)),
)
