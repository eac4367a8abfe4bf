"""Joint decisions on one firm now, by the bank's own node: what an application, a renewal and a loan system wait for.

The reference is the node's request id, so whatever was killed or repeated under it gets the answer that was given, and
holders release a firm once for it. The firm's token is the one that the book names; it goes with the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import sqlalchemy as sa
from google.protobuf.message import Message

from party_bank.book import Book
from party_bank.book_tables import CONSENTS, DECISIONS
from party_bank.joint import OpenedSteps
from veilscore.errors import BookError, VeilscoreError
from veilscore.evidence.filings import filed_versions
from veilscore.release.consent import Signed
from veilscore.release.token_choice import set_aside, token_of
from veilscore.terms.decide import Decide
from veilscore.terms.decision import bits_of
from veilscore.terms.settings import read_text
from veilscore.v1 import control_pb2

_PATIENCE_S = 5.0  # beyond a request's own time, for its answer to come back
_ANSWERED = ("scored", "fallback")
M = TypeVar("M", bound=Message)
_Kept = tuple[Path, Signed]


class ScoringNode(Protocol):
    """The bank's node: `OwnNode`, or one that is reached over a site's own link."""

    @property
    def home(self) -> Path:
        """Return the bank's home."""
        ...

    @property
    def name(self) -> str:
        """Return the bank's name."""
        ...

    def ask(self, method: str, request: Message, reply: type[M], timeout_s: float) -> M:
        """Call the node once and return its reply."""
        ...


class OnlineJoint:
    """Asks the bank's node about one firm at a time.

    timeout_s : of one decision.
    """

    def __init__(self, book: Book, node: ScoringNode, *, timeout_s: float = 10.0) -> None:
        self._book, self._node, self._timeout_s = book, node, timeout_s
        self._known: dict[tuple[str, str], float] = {}

    def __call__(self, firms: Sequence[str], *, model: str, purpose: str, reference: str) -> OpenedSteps:
        """Return the step of a firm; None where a holder says that it does not know it.

        Raises BookError where the node cannot be reached, a holder refuses, or there is no token: what waits for the
        decision stays as it is in the book, and goes on under the same reference.
        """
        if len(firms) != 1:
            raise BookError(f"{reference} is about {len(firms):,} firms: run a job for them (task decide)")
        (firm,) = firms
        kept = self._token(firm, model, purpose, reference)
        response = self._answer(firm, model, purpose, reference, kept)
        if kept is not None and kept[0].parent.name == "tokens":
            set_aside(*kept, reference)
        unknown = any(party.status == "unknown" for party in response.parties)
        return OpenedSteps(
            {firm: None if unknown else response.step},
            response.model_sha256.hex(),
            tuple(party.party for party in response.parties if party.party != self._node.name),
            self._bits(model, response.model_sha256.hex()),
            measures={firm: response.measure} if response.measure else {},
        )

    def _bits(self, model: str, sha256: str) -> float:
        """Return what an outcome of the version that answered tells, which may not be in use any more; it is read once.

        Raises BookError where this home has no such version.
        """
        if (model, sha256) not in self._known:
            filed = next(filed_versions(self._node.home, model, bytes.fromhex(sha256)), None)
            if filed is None:
                raise BookError(
                    f"decision {model} was answered by its version {sha256[:16]}..., which is not in "
                    f"{self._node.home} any more: restore it from backup, then do the same again"
                )
            self._known[model, sha256] = bits_of(filed[0].decision.outcomes)
        return self._known[model, sha256]

    def _answer(
        self, firm: str, model: str, purpose: str, reference: str, kept: _Kept | None
    ) -> control_pb2.ScoreResponse:
        request = control_pb2.ScoreRequest(
            request_id=reference,
            firm_id=firm,
            model=model,
            purpose=purpose,
            timeout_s=self._timeout_s,
            on_missing="missing_code",
            output="decision",
            consent=b"" if kept is None else kept[1].to_message().SerializeToString(),
        )
        try:
            wait_s = self._timeout_s + _PATIENCE_S
            response = self._node.ask("Score", request, control_pb2.ScoreResponse, wait_s)
        except VeilscoreError as error:
            raise BookError(f"{reference} is kept and not decided yet, as {error}: do the same again") from error
        if response.status not in _ANSWERED:
            raise BookError(f"{reference} is kept and not decided yet, as {_why(response)}: do the same again")
        return response

    def _token(self, firm: str, model: str, purpose: str, reference: str) -> _Kept | None:
        """Return the token that the book names for this question, else another one of the firm, with its file."""
        named = self._book.rows(
            sa.select(CONSENTS.c.document)
            .join(DECISIONS, DECISIONS.c.consent == CONSENTS.c.id)
            .where(DECISIONS.c.firm == firm, DECISIONS.c.kind == purpose, DECISIONS.c.reference == reference)
        )
        folder = self._node.home / "consents"
        unused, used = ([folder / kind / f"{row['document']}.json" for row in named] for kind in ("tokens", "used"))
        for path in (one for one in unused if one.is_file()):
            return path, _signed(path)
        other = token_of(self._node.home, self._node.name, firm, model, purpose, Decide.task, reference)
        if other is None:  # a repeat, whose token went with the first request: it may go with the same one again
            for path in (one for one in used if one.is_file()):
                return path, _signed(path)
        return other


def _signed(path: Path) -> Signed:
    return Signed.from_text(read_text(path, "consent"), str(path))


def _why(response: control_pb2.ScoreResponse) -> str:
    """Say in a few words why there is no answer."""
    failed = [f"{party.party} {party.status} it ({party.reason})" for party in response.parties if party.reason]
    return "; ".join(failed) or response.message or f"the bank's node answered {response.status}"
