"""How one firm passes the holder online: consent before its record is touched, the ledger before a share leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from veilscore.arrays import CodeArray
from veilscore.errors import RefusedError, StateError, VeilscoreError
from veilscore.release.budget import ReleaseBudget
from veilscore.release.gate import ConsentGate, Token
from veilscore.release.ledger import LEDGER, ONLINE, Release, ReleaseLedger, counted_map
from veilscore.release.scope import Ask
from veilscore.terms.policy import SCORE_ONLINE, NodePolicy, Request
from veilscore.v1.control_pb2 import EncryptRecord


@dataclass(frozen=True, repr=False)
class Allowed:
    """What a policy allows, and which policy it was."""

    asked: Request
    policy: NodePolicy


@dataclass(frozen=True, repr=False)
class Passed:
    """A request that may go on.

    Between a record and its opening the policy may become another: that one is asked before anything leaves.

    release : what its opening would be.
    token : consent to use up with it.
    released_as : request whose result still holds, so that nothing is opened; "" where it has to be.
    used_up : batches and requests together released the firm as often as the policy allows: it counts as unknown.
    tells : whether the record's being sent says that it changed, so that it is counted before that.
    allowed : what a policy allowed when the record was asked for.
    without_others : it is opened without all holders of the model.
    """

    release: Release
    token: Token
    n_columns: int
    released_as: str = ""
    used_up: bool = False
    tells: bool = False
    allowed: Allowed | None = None
    without_others: bool = False


class SingleGuard:
    """Consent and release control of a holder's online side.

    home, name : the holder's.
    policy : its own.
    """

    def __init__(self, home: Path, policy: NodePolicy, name: str) -> None:
        self._home, self._name = home, name
        self._ledger = ReleaseLedger(home / LEDGER)
        self.follow(policy)

    def follow(self, policy: NodePolicy) -> None:
        """Go by this policy from now on."""
        self._policy, self._rules = policy, policy.release
        self._gate = ConsentGate.of(self._home, policy)

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def check_consent(
        self, request: EncryptRecord, bank: str, firm: str, model: str, task: str = SCORE_ONLINE, bits: float = 0.0
    ) -> Token:
        """Verify the consent of this firm (normalised id) that came with a request; RefusedError if it does not do.

        bits : what a decision tells; a consent to decisions allows so many, and names this holder.
        """
        ask = Ask(request.purpose, task, bank, model, self._ledger.now_s(), holder=self._name, bits=bits)
        return self._gate.check_token(request.consent, firm, ask, self._ledger, f"{bank}/{request.request_id}")

    def check_release(
        self, request: EncryptRecord, bank: str, firm: str, codes: CodeArray, token: Token, bits: float, by: Allowed
    ) -> Passed:
        """Hold a request against the ledger; RefusedError if a rule forbids it.

        codes : (1, n_columns) of the firm; bits : the most that the bank learns; by : what the policy allowed.
        """
        release = Release(
            kind=ONLINE,
            bank=bank,
            reference=f"{bank}/{request.request_id}",
            model=request.model_hash.hex(),
            code_map=counted_map(request.map_hash, request.bands_hash),
            firms=self._ledger.firms([firm]),
            record=self._ledger.record_digest(codes),
            band=bool(request.bands_hash) and not request.step_limits,
            bits=bits,
        )
        budget = self._budget(codes.shape[1])
        with self._ledger.steady():
            earlier = budget.check_single(release, fresh=request.fresh)
            used_up = not earlier and budget.single_used_up(release)
            tells = not earlier and not request.fresh and budget.tells_a_change(release)
        if earlier and token.spend is not None:
            self._ledger.spend(token.spend, release.reference)
        return Passed(release, token, codes.shape[1], earlier.partition("/")[2], used_up, tells, by)

    def admit(
        self, several: Sequence[Passed], meanwhile: Callable[[Sequence[VeilscoreError | None]], None]
    ) -> list[VeilscoreError | None]:
        """Write releases down and use their tokens up, just before the shares leave; all that pass are on disk at once.

        The bank says when that is, which may be long after its request: what has ended since does not count any more.
        Returns for each why it may not pass, None where it does: one that is refused leaves nothing, and others pass.
        meanwhile : given that before the ledger is on disk, to begin another write that shares its wait.
        """
        refused: list[VeilscoreError | None] = []
        with self._ledger.exclusive():
            for passed in several:
                try:
                    with self._ledger.part():
                        self._admit(passed)
                except StateError:  # the ledger or the revocations cannot be read or written: it concerns them all
                    raise
                except VeilscoreError as refusal:
                    refused.append(refusal)
                else:
                    refused.append(None)
            meanwhile(refused)
        return refused

    def _admit(self, passed: Passed) -> None:
        self._allow(passed)
        release = passed.release
        token = self._gate.now(passed.token, self._ledger, release.reference)
        if self._rules.control == "on":
            self._budget(passed.n_columns).admit(release, token.spend, as_unknown=passed.used_up)
        elif token.spend is not None:
            self._ledger.spend(token.spend, release.reference)

    def _allow(self, passed: Passed) -> None:
        """Ask the policy of now: for the day alone where it is that of before, for all its rules where it is not."""
        policy, by = self._policy, passed.allowed
        asked = Request(bank=passed.release.bank, purpose=None, task=SCORE_ONLINE) if by is None else by.asked
        if by is not None and by.policy is policy:
            asked = replace(asked, rules=())
        policy.allows(asked, self._name)
        if passed.without_others and not policy.online_without_others:
            raise RefusedError(f"{self._name} opens its part only together with all holders of the model")

    def _budget(self, n_columns: int) -> ReleaseBudget:
        return ReleaseBudget(self._ledger, self._rules, n_columns)
