"""What a bank's door takes from a loan system and gives back: its section of node.yaml, its messages, its problems.

The messages are the one truth of both forms: HTTP carries them as JSON, gRPC as those of
`protos/veilscore/v1/door.proto`, which have the same names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from veilscore.terms.bands import MAX_STEPS
from veilscore.terms.parameters import Name
from veilscore.terms.settings import Strict

MAY = ("score", "band", "decide")  # what a caller may be let do
May = Literal["score", "band", "decide"]
VERSION = "v1"
MOST_S = 120.0

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DoorConfig(Strict):
    """Opens the bank's node to loan systems: HTTP with JSON, and gRPC, both with TLS 1.3 and client certificates."""

    host: str = Field(default="127.0.0.1", min_length=1, max_length=253, description="address to listen on")
    port: int = Field(default=7443, ge=0, le=65535, description="port of HTTP; 0 takes a free one")
    grpc_port: int | None = Field(default=7444, ge=0, le=65535, description="port of gRPC; null: none")
    names: tuple[HostName, ...] = Field(
        default=("localhost", "127.0.0.1"),
        min_length=1,
        description="host names and addresses by which callers reach it; its certificate is made with them",
    )
    certificate: Path | None = Field(
        default=None, description="PEM of a certificate of the bank's own, with its chain; null: one is made"
    )
    key: Path | None = Field(default=None, description="PEM of its key; null with a certificate that is made")
    client_ca: Path | None = Field(
        default=None, description="PEM of the bank's own authority, whose certificates are callers too"
    )
    client_ca_names: dict[Name, tuple[May, ...]] = Field(
        default_factory=dict,
        description="common names admitted of client_ca, and what each may do: score, band, decide",
    )
    refused: tuple[Fingerprint, ...] = Field(
        default=(), description="SHA-256 of certificates of client_ca that are not admitted any more"
    )
    per_minute: int = Field(default=600, ge=1, le=100_000, description="requests of one caller in a minute")
    at_once: int = Field(default=16, ge=1, le=1000, description="requests of one caller at one time")
    connections: int = Field(default=256, ge=1, le=10_000, description="connections of HTTP at one time")
    connections_of_one: int = Field(
        default=32, ge=1, le=10_000, description="connections of HTTP at one time with one certificate"
    )
    most_bytes: int = Field(default=65_536, ge=1024, le=1 << 20, description="longest body of a request, bytes")
    read_s: float = Field(default=10.0, gt=0, le=120, description="seconds in which a whole request has to arrive")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("give certificate and key, or neither")
        if (self.client_ca is None) != (not self.client_ca_names):
            raise ValueError("client_ca and client_ca_names belong together: name whom the authority's word admits")
        return self

    def below(self, home: Path) -> DoorConfig:
        """Return it with relative paths put below a home."""
        paths = {name: getattr(self, name) for name in ("certificate", "key", "client_ca")}
        return self.model_copy(update={name: None if p is None else home / p for name, p in paths.items()})


# --- messages --------------------------------------------------------------------------------------------------------

RequestId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="the caller's own id of the request: a repeat under it gets the same answer",
    ),
]
FirmId = Annotated[str, Field(min_length=1, max_length=100, description="the firm's id, such as its credit code")]
Seconds = Annotated[
    float, Field(gt=0, le=MOST_S, description="how long the caller waits; a late answer is kept for a repeat")
]
OnMissing = Annotated[
    Literal["fail", "missing_code", "neutral"],
    Field(description="what to do where a holder does not know the firm, refuses or cannot be reached"),
]
Features = Annotated[
    dict[Annotated[str, Field(max_length=200)], Annotated[str, Field(max_length=200)]],
    Field(max_length=2000, description="the bank's own columns as text; empty: its data set's row of the firm"),
]


class _Asked(Strict):
    """What every request says."""

    request_id: RequestId
    firm_id: FirmId
    timeout_s: Seconds = 10.0
    on_missing: OnMissing = "fail"
    purpose: str = Field(default="", max_length=200, description="why; empty: what the model was made for")
    features: Features = Field(default_factory=dict)
    consent: str = Field(
        default="",
        max_length=20_000,
        description="the firm's token, as its issuer wrote it; empty: one that the bank imported",
    )


class ScoreAsked(_Asked):
    """Asks for one firm's score or band by a model."""

    model: str = Field(min_length=1, max_length=100, description="name of the model at the bank's node")
    output: Literal["score", "band", "exact"] = Field(
        default="score",
        description="score: in steps; band: the band alone; exact: to the point, where holders allow it",
    )
    steps: int | None = Field(default=None, ge=2, le=MAX_STEPS, description="of a score, the most; null: 32")
    reasons: int = Field(default=4, ge=1, le=100, description="the most reasons to return")

    @property
    def needs(self) -> May:
        """Return what a caller must be let do to ask this."""
        return "band" if self.output == "band" else "score"

    @model_validator(mode="after")
    def _steps_of_a_score(self) -> Self:
        if self.steps is not None and self.output != "score":
            raise ValueError("steps belong to output: score")
        return self


class DecisionAsked(_Asked):
    """Asks for one firm's step by a filed decision; `on_missing` is fail or missing_code."""

    decision: str = Field(min_length=1, max_length=100, description="name of the decision filed at the bank's node")

    @property
    def needs(self) -> May:
        """Return what a caller must be let do to ask this."""
        return "decide"

    @model_validator(mode="after")
    def _no_averages(self) -> Self:
        if self.on_missing == "neutral":
            raise ValueError("a decision takes no averages: on_missing is fail or missing_code")
        return self


class _Answer(BaseModel):
    """What a client reads is what this version knows; a later one may add fields."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PartyAnswer(_Answer):
    """Says how one holder took part."""

    party: str
    status: str = Field(
        description="ok, not disclosed (answered; does not say whether it knows the firm), unknown, refused, failed"
    )
    reason: str = ""
    data_time_s: float | None = Field(None, description="when its data were written, seconds since 1970")


class ReasonAnswer(_Answer):
    """Names what cost the firm points."""

    party: str
    column: str = ""
    points_lost: float
    text: str = ""


class ScoreAnswer(_Answer):
    """Returns one firm's score or band; what the output asked for does not have is null."""

    request_id: str
    status: Literal["scored", "fallback"] = Field(
        description="fallback: a holder's part is missing or stands for an unknown firm; parties and message say why"
    )
    model: str
    model_version: str
    model_sha256: str
    output: Literal["score", "band", "exact"]
    score: float | None = Field(None, description="points; of a score in steps the middle of the step")
    step: int | None = Field(None, description="which step, by rising score from 0")
    steps: int | None = Field(None, description="of how many")
    band: str | None = Field(None, description="name of the band, where the model has bands")
    probability_of_default: float | None = None
    message: str = ""
    parties: tuple[PartyAnswer, ...] = ()
    reasons: tuple[ReasonAnswer, ...] = ()


class DecisionReply(_Answer):
    """Returns one firm's step by a decision, and nothing else of its totals."""

    request_id: str
    status: Literal["scored", "fallback"] = Field(
        description="scored: decided; fallback: a firm that a holder does not know counts there with its missing bins"
    )
    decision: str
    decision_version: str
    decision_sha256: str
    step: int = Field(description="number of the step, 0 is none")
    name: str = Field(description="its name, such as an amount; none at step 0")
    steps: int = Field(description="how many steps there are beside none")
    measure: str | None = Field(None, description="which measure decided, where the decision tells it")
    message: str = ""
    parties: tuple[PartyAnswer, ...] = ()


class HealthAnswer(_Answer):
    """Says that the door is open, and to whom."""

    status: Literal["open"] = "open"
    node: str
    version: str
    caller: str
    may: tuple[May, ...]


# --- problems --------------------------------------------------------------------------------------------------------

# kind -> HTTP status, status of gRPC, title, whether the same request may be sent again under its id
PROBLEMS: dict[str, tuple[int, str, str, bool]] = {
    "malformed": (400, "INVALID_ARGUMENT", "The request cannot be read", False),
    "not-admitted": (403, "PERMISSION_DENIED", "The caller may not ask this", False),
    "not-found": (404, "NOT_FOUND", "There is no such path", False),
    "wrong-method": (405, "UNIMPLEMENTED", "The path takes another method", False),
    "slow": (408, "DEADLINE_EXCEEDED", "The request did not arrive in time", True),
    "id-reused": (409, "ALREADY_EXISTS", "The request id was used for something else", False),
    "too-large": (413, "RESOURCE_EXHAUSTED", "The request is too large", False),
    "wrong-type": (415, "INVALID_ARGUMENT", "The request is not JSON", False),
    "unusable": (422, "INVALID_ARGUMENT", "The request cannot be answered as it is", False),
    "no-result": (422, "FAILED_PRECONDITION", "There is no result", False),
    "too-many": (429, "RESOURCE_EXHAUSTED", "Too many requests", True),
    "internal": (500, "INTERNAL", "The node failed", True),
    "unreachable": (503, "UNAVAILABLE", "A party cannot be reached", True),
    "late": (504, "DEADLINE_EXCEEDED", "There was no answer in time", True),
}


class Problem(_Answer):
    """Says why there is no answer: problem details of RFC 9457, with the id and what to do."""

    type: str = Field(description="urn:veilscore:door:v1:KIND")
    title: str
    status: int = Field(description="the HTTP status; the same for gRPC")
    detail: str = Field(description="one or two sentences: what is wrong and what to do")
    request_id: str | None = None
    may_repeat: bool = Field(description="whether the same request may be sent again under its id")
    parties: tuple[PartyAnswer, ...] = ()

    @classmethod
    def of(cls, kind: str, detail: str, request_id: str | None = None, parties: tuple[PartyAnswer, ...] = ()) -> Self:
        """Return the problem of a kind of the table."""
        status, _, title, again = PROBLEMS[kind]
        return cls(
            type=f"urn:veilscore:door:{VERSION}:{kind}",
            title=title,
            status=status,
            detail=detail,
            request_id=request_id,
            may_repeat=again,
            parties=parties,
        )

    @property
    def kind(self) -> str:
        """Return the kind, the last part of its type."""
        return self.type.rpartition(":")[2]

    def body(self) -> dict[str, Any]:
        """Return what is sent of it."""
        return self.model_dump(mode="json", exclude_none=True)
