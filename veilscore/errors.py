"""Every error Veilscore raises, as one tree.

    VeilscoreError
    ├── ConfigError            a file or option the user wrote (federation, job, policy, model)
    ├── DataError              a data set or column that cannot be used
    │   ├── IdError            empty, duplicate or malformed ids
    │   ├── ColumnError        one value, all missing, infinite, mixed type
    │   ├── LabelError         constant or not 0/1
    │   └── SchemaError        schema or map differs from the one trained on
    ├── OverlapError           too few firms in common (the holder says so, the bank hears a refusal)
    ├── ProtocolError          a peer's message is out of order, of the wrong kind or session
    │   └── MessageError       a message's size, shape or range is wrong
    ├── ParameterError         lattice parameters below 128 bits, or a computation that would overflow
    ├── SecretReuseError       a one-time secret asked for twice
    ├── PeerError              a peer cannot be reached, is slow, or failed
    │   ├── IdentityError      unknown, expired or wrong-role certificate; version mismatch
    │   └── RefusedError       a party refused (policy, approval, limits)
    ├── SandboxError           submitted code changed, was not approved, or its outputs do not pass
    │   └── SandboxUnavailableError  bubblewrap or libseccomp is not here, or the kernel forbids namespaces
    ├── JobError               a job that cannot start, go on or be found
    ├── StateError             local state cannot be read or written (disk full, rollback)
    └── EvidenceError          a log, head, receipt or proof does not verify

Messages say what is wrong, where, and what to do; they never carry data values of a row, keys or shares.
"""

from __future__ import annotations


class VeilscoreError(Exception):
    """Root of the tree.

    Parameters
    ----------
    message : what is wrong, where, and what to do.
    session : session id, if the error belongs to one.
    party : name of the party where it arose, if known.
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
    """A file or option that the user wrote is wrong."""


class DataError(VeilscoreError):
    """A data set cannot be used as it is."""


class IdError(DataError):
    """Ids are empty, duplicate or malformed."""


class ColumnError(DataError):
    """A column has one value, is all missing, infinite or of mixed type."""


class LabelError(DataError):
    """The label is constant or not 0/1."""


class SchemaError(DataError):
    """Data or model part differ from what was trained on."""


class OverlapError(VeilscoreError):
    """Too few firms in common to go on."""


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
    """A party refused."""


class SandboxError(VeilscoreError):
    """Submitted code changed, was not approved, or its outputs do not pass."""


class SandboxUnavailableError(SandboxError):
    """Something the sandbox cannot do without is missing on this machine; code is then never run bare."""


class JobError(VeilscoreError):
    """A job cannot start, go on or be found."""


class StateError(VeilscoreError):
    """Local state cannot be read or written."""


class EvidenceError(VeilscoreError):
    """A log, head, receipt or proof does not verify."""
