"""Every error that Veilscore raises, as one tree below `VeilscoreError`.

A message says what is wrong, where, and what to do; it never carries a value of a row, a key or a share.
"""

from __future__ import annotations

from collections.abc import Mapping


class VeilscoreError(Exception):
    """Root of the tree; prints its message with the party and the session that it belongs to, where they are known.

    message : what is wrong, where, and what to do.
    """

    def __init__(self, message: str, *, session: str | None = None, party: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.session = session
        self.party = party

    def __str__(self) -> str:
        where = ", ".join(
            f"{name} {value}" for name, value in (("party", self.party), ("session", self.session)) if value
        )
        return f"{self.message} [{where}]" if where else self.message


class ConfigError(VeilscoreError):
    """A file or option that the user wrote (federation, job, policy, model) is wrong."""


class DataError(VeilscoreError):
    """A data set or a column cannot be used as it is."""


class IdError(DataError):
    """Ids are empty, duplicate or malformed."""


class ColumnError(DataError):
    """A column has one value, is all missing, infinite or of mixed type."""


class LabelError(DataError):
    """The label is constant or not 0/1."""


class SchemaError(DataError):
    """Data or model part differ from what was trained on."""


class ProtocolError(VeilscoreError):
    """A peer's message is out of order, of the wrong kind, or from another session."""


class MessageError(ProtocolError):
    """A message's size, shape or range is wrong."""


class ParameterError(VeilscoreError):
    """Lattice parameters are below 128 bits, or a computation would overflow."""


class SecretReuseError(VeilscoreError):
    """A one-time secret was asked for twice."""


class PeerError(VeilscoreError):
    """A peer cannot be reached, is too slow, or failed."""


class IdentityError(PeerError):
    """A peer is unknown, expired, of the wrong role, or speaks another version."""


class RefusedError(PeerError):
    """A party refused, by its policy, a person's decision or a limit."""


class DoorError(PeerError):
    """The door of a bank gave no answer.

    kind : of the problem (`veilscore.terms.door.PROBLEMS`); "" where the door itself was not reached.
    status : as of HTTP; 0 where there was none.
    may_repeat, after_s : whether the same request may be sent again under its id, and after how many seconds at least.
    parties : status of each holder, where holders were asked.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        status: int = 0,
        request_id: str | None = None,
        may_repeat: bool = False,
        after_s: int = 0,
        parties: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.status, self.request_id = kind, status, request_id
        self.may_repeat, self.after_s, self.parties = may_repeat, after_s, dict(parties or {})


class SandboxError(VeilscoreError):
    """Submitted code changed, was not approved, or its outputs do not pass."""


class SandboxUnavailableError(SandboxError):
    """Bubblewrap or libseccomp is missing, or the kernel forbids namespaces; code is then never run bare."""


class JobError(VeilscoreError):
    """A job cannot start, go on or be found."""


class BookError(VeilscoreError):
    """The bank's book does not allow a change: a wrong state, a date that passed, a thing done twice or unknown."""


class StateError(VeilscoreError):
    """Local state cannot be read or written: the disk is full, a file is damaged or was rolled back."""


class EvidenceError(VeilscoreError):
    """A log, head, receipt or proof does not verify."""
