"""A holder keeps the revocation lists of the issuers that its policy names, in HOME/consents/revocations.

All consents that any list there ever named stay revoked, so that an older list cannot bring one back. Of firms the list
with the highest number of each issuer counts, and one below that is not taken: a firm that consents anew is absent from
a newer list, signed by its issuer, and from nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from veilscore.arrays import Mask
from veilscore.errors import StateError
from veilscore.release.consent import Revocations, Signed, read_revocations
from veilscore.release.issuer import import_consent
from veilscore.terms.settings import read_text

FOLDER = "consents/revocations"


def speaking(issuers: Iterable[str], banks: Mapping[str, Sequence[str]], bank: str) -> frozenset[str]:
    """Return the issuers that speak for a bank's firms; `banks` names those of some, and the others speak for all."""
    return frozenset(name for name in issuers if bank in banks.get(name, (bank,)))


@dataclass(frozen=True)
class Revoked:
    """What the issuers revoked, as far as this holder knows.

    ids : issuer -> what it ended, as `Revocations.revoked` has it.
    newest : issuer -> its list with the highest number, and the document itself.
    """

    ids: dict[str, frozenset[str]] = field(default_factory=dict)
    newest: dict[str, tuple[Revocations, Signed]] = field(default_factory=dict)

    @property
    def consents(self) -> frozenset[str]:
        """Return the ids of all consents that ended."""
        return frozenset().union(*self.ids.values())

    def ended(self, consent: str) -> bool:
        """Return whether a consent of this id ended as a whole."""
        return any(consent in ids for ids in self.ids.values())

    def by(self, issuers: Container[str]) -> Revoked:
        """Return what these issuers revoked."""
        return Revoked(
            {name: ids for name, ids in self.ids.items() if name in issuers},
            {name: one for name, one in self.newest.items() if name in issuers},
        )

    def firms(self, ids: Iterable[str]) -> Mask:
        """Return which of these firms (normalised ids) ended every consent at any issuer, (n,)."""
        names = list(ids)
        found = np.zeros(len(names), bool)
        for one, _ in self.newest.values():
            found |= one.covers(names)
        return found


class RevocationLists:
    """Reads and keeps the lists of one home; they are read again when the folder changes.

    issuers : name -> public key (64 hexadecimal digits).
    """

    def __init__(self, home: Path, issuers: dict[str, str]) -> None:
        self._home, self._folder, self._issuers = home, home / FOLDER, issuers
        self._read: tuple[object, Revoked] = (None, Revoked())

    def of(self, issuers: dict[str, str]) -> RevocationLists:
        """Return the lists of the same home by other issuers."""
        return RevocationLists(self._home, issuers)

    def now(self) -> Revoked:
        """Return what is revoked now; StateError where the folder cannot be read, IdentityError for a foreign list."""
        state = self._state()
        if self._read[0] != state:
            newest: dict[str, tuple[Revocations, Signed]] = {}
            ids: dict[str, frozenset[str]] = {}
            for name in sorted(state):
                signed = Signed.from_text(read_text(self._folder / name, "revocations"), str(self._folder / name))
                one = read_revocations(signed, self._issuers)
                ids[one.issuer] = ids.get(one.issuer, frozenset()) | one.revoked
                kept = newest.get(one.issuer)
                if kept is None or (one.number, one.issued_s) > (kept[0].number, kept[0].issued_s):
                    newest[one.issuer] = one, signed
            self._read = state, Revoked(ids, newest)
        return self._read[1]

    def take(self, signed: Signed) -> bool:
        """Keep a list if it is newer than the one there is, and say so; IdentityError or MessageError as it is read."""
        one = read_revocations(signed, self._issuers)
        kept = self.now().newest.get(one.issuer)
        if kept is not None and one.number <= kept[0].number:
            return False
        import_consent(self._home, signed, "revocations", f"{one.issuer}-{one.number}")
        for path in self._folder.glob(f"{one.issuer}-*.json"):
            older = read_revocations(Signed.from_text(read_text(path, "revocations"), str(path)), self._issuers)
            if older.issuer == one.issuer and older.number < one.number and older.revoked <= one.revoked:
                path.unlink(missing_ok=True)  # all of it is in the new one
        return True

    def _state(self) -> dict[str, tuple[int, int]]:
        """Return time and size of every list; none counts as absent because it cannot be looked at (StateError)."""
        try:
            with os.scandir(self._folder) as entries:  # a caller waits: a third of the time of pathlib's glob
                found = {e.name: e.stat() for e in entries if e.name.endswith(".json")}
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self._folder.exists():
                return {}
            raise StateError(f"revocations in {self._folder} cannot be read: {error.strerror}") from error
        return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}
