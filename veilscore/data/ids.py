"""Bring ids of firms to one spelling per firm, and refuse ids that would silently match nobody.

Source: GB 32100-2015, the Chinese unified social credit code (USCC): 18 characters of a 31-letter alphabet
(digits and capitals without I, O, S, V, Z), the last one a check character with weights 3^i mod 31.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from veilscore.arrays import Array, Integers, Limbs, Mask
from veilscore.errors import ConfigError, IdError

USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
USCC_LENGTH = 18
USCC_WEIGHTS = np.array([pow(3, i, 31) for i in range(USCC_LENGTH - 1)], dtype=np.int64)
_WEIGHTS = tuple(USCC_WEIGHTS.tolist())
ROWS_NAMED = 5  # row numbers that an error message lists per kind of fault

_NOT_IN_ALPHABET = 31
_USCC_VALUES = np.full(128, _NOT_IN_ALPHABET, dtype=np.uint8)
_USCC_VALUES[[ord(letter) for letter in USCC_ALPHABET]] = np.arange(31, dtype=np.uint8)

_SPREADSHEET_DIGITS = 15  # that Excel keeps of a number
_FIXED_LENGTH = 6  # digits from which ids are more likely codes than numbers counted up
_SCIENTIFIC = re.compile(r"[0-9](?:[.,][0-9]+)?[eE]\+[0-9]{1,3}")
_WRAPPED = re.compile(r"=\"(.*)\"|'(.*)")
_NO_WIDTH = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_PLAIN_USCC = re.compile(f"[{USCC_ALPHABET}{USCC_ALPHABET.lower()}]{{{USCC_LENGTH}}}")
_PLAIN_TEXT = re.compile(r"(?![='])[ -~]+(?<!\.0)")
_ASCII_OF = {0xFF01 + k: 0x21 + k for k in range(94)} | {0x3000: 0x20, 0xA0: 0x20, 0x202F: 0x20}

Ids = NDArray[np.str_]


def normalise_text(values: npt.ArrayLike) -> Ids:
    """Return ids (n,) as text in one spelling: case kept, missing ones (None, NaN) empty.

    White space around them, characters without width, and what spreadsheets put around text (="001", '001) go;
    full-width forms, as typed on a Chinese keyboard, become ASCII.
    """
    array: Array = np.asarray(values)
    if array.ndim != 1:
        raise IdError(f"ids must be one column, but have {array.ndim} dimensions; name a single id column")
    if array.dtype.kind == "O":
        missing = np.equal(array, np.array(None, dtype=object)) | np.not_equal(array, array)  # NaN differs from itself
        if missing.any():
            array = np.where(missing, "", array)
    if len(array) and (
        array.dtype.kind == "f" or (array.dtype.kind == "O" and float in set(map(type, array.tolist())))
    ):
        raise IdError("ids are decimal numbers, so digits may be lost already; store the id column as text")
    ids = np.strings.strip(array.astype(np.str_))
    points = _code_points(ids)
    odd = np.flatnonzero((points > ord("~")).any(axis=1) | (points[:, 0] == ord("=")) | (points[:, 0] == ord("'")))
    if len(odd):
        ids[odd] = [_one_spelling(text) for text in ids[odd].tolist()]  # never longer than it was
    return ids


def _one_spelling(text: str) -> str:
    text = "".join(letter for letter in text.translate(_ASCII_OF) if letter not in _NO_WIDTH).strip()
    wrapped = _WRAPPED.fullmatch(text)
    return (wrapped[1] or wrapped[2]).strip() if wrapped else text


def normalise_uscc(values: npt.ArrayLike) -> Ids:
    """Return USCC ids (n,) in one spelling: as `normalise_text`, and upper case.

    Missing ones become empty; malformed ones pass through, as `check_ids` names them.
    """
    points = _code_points(normalise_text(values)).copy()
    points[(points >= ord("a")) & (points <= ord("z"))] -= 32
    return np.ascontiguousarray(points).view(f"<U{points.shape[1]}").ravel()


def uscc_check_values(stems: NDArray[np.integer[Any]]) -> Integers:
    """Return the check value in [0, 31) for stems given as (n, 17) letter values in [0, 31)."""
    sums: Integers = stems.astype(np.int64) @ USCC_WEIGHTS
    return np.mod(-sums, 31)


def uscc_from_stems(stems: NDArray[np.integer[Any]]) -> Ids:
    """Make valid codes from (n, 17) letter values in [0, 31), check character appended; (n,) array of str."""
    values = np.column_stack([stems, uscc_check_values(stems)])
    points = np.array([ord(letter) for letter in USCC_ALPHABET], dtype=np.uint32)[values]
    return np.ascontiguousarray(points).view(f"<U{USCC_LENGTH}").ravel()


def malformed_uscc(ids: Ids) -> Mask:
    """Flag ids (n,) of wrong length, with a foreign letter or a wrong check character; empty ones are not flagged."""
    filled = np.strings.str_len(ids) > 0
    points = _code_points(ids)
    if points.shape[1] < USCC_LENGTH:
        return filled
    beyond = (points[:, USCC_LENGTH:] != 0).any(axis=1)
    points = points[:, :USCC_LENGTH]
    values = _USCC_VALUES[np.minimum(points, 127)]
    values[points > 127] = _NOT_IN_ALPHABET
    wrong_letter = (values == _NOT_IN_ALPHABET).any(axis=1)
    wrong_check = uscc_check_values(values[:, :-1]) != values[:, -1]
    return np.asarray(filled & (beyond | wrong_letter | wrong_check), dtype=np.bool_)


def _never_malformed(ids: Ids) -> Mask:
    return np.zeros(len(ids), dtype=np.bool_)


@dataclass(frozen=True)
class Normaliser:
    """Says how one kind of id is spelled and checked; `remedy` is what the owner can do about malformed ones."""

    normalise: Callable[[npt.ArrayLike], Ids]
    malformed: Callable[[Ids], Mask]
    remedy: str


NORMALISERS: Mapping[str, Normaliser] = MappingProxyType(
    {
        "uscc": Normaliser(
            normalise_uscc,
            malformed_uscc,
            "correct the codes (18 characters, GB 32100-2015 check character), or use the normaliser 'text' "
            "if the ids are of another kind at every party",
        ),
        "text": Normaliser(normalise_text, _never_malformed, "correct the ids"),
    }
)


def normaliser_named(name: str) -> Normaliser:
    """Look a normaliser up; unknown names raise ConfigError."""
    if name not in NORMALISERS:
        raise ConfigError(f"id normaliser {name!r} is unknown; choose one of {', '.join(sorted(NORMALISERS))}")
    return NORMALISERS[name]


def normalise_ids(values: npt.ArrayLike, normaliser: str = "uscc") -> Ids:
    """Return ids in one spelling by the named normaliser; nothing is checked (see `check_ids`)."""
    return normaliser_named(normaliser).normalise(values)


def normalise_one(value: str, normaliser: str = "uscc", *, source: str = "the request") -> str:
    """Return one id as `normalise_ids` spells it; IdError where `check_ids` refuses it.

    A caller waits for single ids, and whole-array code takes a hundred times as long for one. So what is plainly in
    order is told here, and all else is left to that code, whose words and errors count.
    """
    text = value.strip()
    if normaliser == "uscc" and _PLAIN_USCC.fullmatch(text):
        text = text.upper()
        *stem, check = map(USCC_ALPHABET.index, text)
        if (sum(map(operator.mul, _WEIGHTS, stem)) + check) % len(USCC_ALPHABET) == 0:
            return text
    if normaliser == "text" and _PLAIN_TEXT.fullmatch(text) and not (text.isdigit() or "+" in text):
        return text
    ids = normalise_ids([value], normaliser)
    check_ids(ids, normaliser, source=source)
    return str(ids[0])


def duplicate_rows(ids: Ids) -> Integers:
    """Return the rows (from 0) whose non-empty id stands in an earlier row already, ascending."""
    points = _code_points(ids).astype(np.uint64)
    multipliers = np.random.default_rng(0).integers(1, 2**63, points.shape[1], dtype=np.uint64) | np.uint64(1)
    digests = (points * multipliers).sum(axis=1, dtype=np.uint64)
    order = np.argsort(digests, kind="stable")
    same = digests[order][1:] == digests[order][:-1]
    candidates = np.union1d(order[1:][same], order[:-1][same])
    # the digest only narrows the search: equal ids have equal digests, the reverse is decided on the ids
    candidates = candidates[np.strings.str_len(ids[candidates]) > 0]
    _, first = np.unique(ids[candidates], return_index=True)
    return np.setdiff1d(candidates, candidates[first]).astype(np.int64)


def check_ids(
    ids: Ids, normaliser: str = "uscc", *, source: str = "the data set", keys: Callable[[], Ids] | None = None
) -> None:
    """Raise IdError if any normalised id is empty, malformed or a duplicate.

    ids : (n,) array of str as returned by `normalise_ids`.
    keys : of rows that are firms at dates, whose keys (n,) must differ in place of their ids.
    source : where the ids come from, for the message. Ids themselves never appear in it.
    """
    kind = normaliser_named(normaliser)
    malformed = np.flatnonzero(kind.malformed(ids))
    spoilt = _spoilt(ids, malformed, normaliser)
    rows_spoilt = np.concatenate([rows for _, rows, _ in spoilt]) if spoilt else np.zeros(0, np.int64)
    faults = [
        ("empty", np.flatnonzero(np.strings.str_len(ids) == 0), "fill or remove these rows"),
        *spoilt,
        ("malformed", np.setdiff1d(malformed, rows_spoilt), kind.remedy),
        # what a spreadsheet rounded is alike, and keeping one row of them would destroy the data set
        (
            ("duplicate", np.setdiff1d(duplicate_rows(ids), rows_spoilt), "keep one row per id")
            if keys is None
            else ("of the same firm and date", duplicate_rows(keys()), "keep one row per firm and date")
        ),
    ]
    found = [_describe(name, rows, remedy) for name, rows, remedy in faults if len(rows)]
    if found:
        raise IdError(f"ids of {source} cannot be used: {'; '.join(found)} (rows counted from 1, header not counted)")


def _spoilt(ids: Ids, malformed: Integers, normaliser: str) -> list[tuple[str, Integers, str]]:
    """Return ids that a program took for numbers: what was done to them, their rows, what the owner can do."""
    remedy = "take the ids from their source again and store the column as text before a spreadsheet opens it"
    plus = np.flatnonzero(np.strings.find(ids, "+") > 0)
    scientific = plus[[_SCIENTIFIC.fullmatch(text) is not None for text in ids[plus].tolist()]]
    long = np.flatnonzero((np.strings.str_len(ids) > _SPREADSHEET_DIGITS) & np.strings.isdigit(ids))
    rounded = long[[not text[_SPREADSHEET_DIGITS:].strip("0") for text in ids[long].tolist()]]
    decimal = np.flatnonzero(np.strings.endswith(ids, ".0"))
    decimal = decimal[[text[:-2].isdigit() for text in ids[decimal].tolist()]]
    if normaliser == "uscc":
        rounded = np.intersect1d(rounded, malformed)
    elif 2 * len(rounded) < max(4, len(long)):  # an id may end in zeros by itself
        rounded = rounded[:0]
    if normaliser != "uscc" and 2 * len(decimal) < len(ids):
        decimal = decimal[:0]
    found = (
        ("in scientific notation, as a spreadsheet shows long numbers", scientific, remedy),
        ("rounded to 15 digits, as a spreadsheet keeps them", rounded, remedy),
        ("ending in .0, as if they were decimal numbers", decimal, "store the id column as text"),
    )
    return [(name, rows, what) for name, rows, what in found if len(rows)]


def id_warnings(ids: Ids, normaliser: str = "uscc") -> tuple[str, ...]:
    """Say whether leading zeros may have been lost: ids of digits alone, most of them of one length, some shorter."""
    if normaliser == "uscc" or not len(ids) or not np.strings.isdigit(ids).all():
        return ()
    lengths = np.strings.str_len(ids)
    longest = int(lengths.max())
    if longest < _FIXED_LENGTH or not 0.5 <= np.mean(lengths == longest) < 1:
        return ()
    lost = "if they had leading zeros, these are lost, and such firms match nobody"
    remedy = "store the id column as text at every party"
    return (f"ids are of {int(lengths.min())} to {longest} digits: {lost}; {remedy}",)


def _describe(name: str, rows: Integers, remedy: str) -> str:
    return f"{len(rows)} {name} (row {rows_text(rows)}): {remedy}"


def rows_text(rows: Integers) -> str:
    """Return row numbers, from 1, for a message; at most a few."""
    return ", ".join(str(row + 1) for row in rows[:ROWS_NAMED]) + (", ..." if len(rows) > ROWS_NAMED else "")


def _code_points(ids: Ids) -> Limbs:
    """Return Unicode code points as (n, width) uint32, zero-padded; width is at least 1."""
    ids = np.ascontiguousarray(ids.astype(f"<U{max(1, ids.dtype.itemsize // 4)}", copy=False))
    return ids.view(np.uint32).reshape(len(ids), -1) if len(ids) else np.zeros((0, 1), dtype=np.uint32)
