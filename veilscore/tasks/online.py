"""Who learns what when single firms are scored: that goes by calls between nodes (control.proto), not by sessions."""

from __future__ import annotations

from veilscore.terms.roles import Leak, hidden

LEARNS: tuple[Leak, ...] = (
    Leak("EncryptRecord", "holder", "opened", "that this firm is scored now, for which purpose, by which model"),
    Leak(
        "EncryptedRecord",
        "bank",
        "opened",
        "unknown firms and codes of reason columns where policy says so",
        only="score",
    ),
    Leak("EncryptedRecord", "bank", "opened", "unknown firms where policy says so", only="band"),
    *hidden("bank", "ciphertext", "PreparedSpare"),
    *hidden("holder", "masked", "FinishSpare", "OpenPartial"),
    *hidden("bank", "public", "HolderKeys"),
    *hidden("holder", "public", "AskKeys", "ShareKey"),
    Leak("AddPartial", "coordinator", "masked", "when holders score, and with whom", only="score"),
    Leak("TotalReply", "bank", "opened", "the firm's total points", only="score"),
    Leak("BandPartial", "lead", "masked", only="band"),
    Leak("MakePool", "lead", "public", only="band"),
    Leak("MadePool", "bank", "masked", only="band"),
    Leak("ExtendPool", "lead", "masked", only="band"),
    Leak("OpenedPartial", "bank", "opened", "the firm's band", only="band"),
)
