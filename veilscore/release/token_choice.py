"""The bank chooses, of the tokens that it imported, the one that covers what it asks about a firm."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from veilscore.data.ids import normalise_one
from veilscore.errors import ConfigError, DataError
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically
from veilscore.release.consent import Claim, Signed, claim_of, commit
from veilscore.release.scope import Ask
from veilscore.terms.decide import Decide
from veilscore.terms.settings import read_text


def asks_of(home: Path, bank: str, name: str, purpose: str, now_s: float, task: str) -> tuple[Ask, ...]:
    """Return what each holder will hold a token against: of a decision its holders and bits; () if it is not known.

    name : of the model or decision; purpose : empty for that which it was made for.
    """
    from veilscore.models.decided import load_decision  # noqa: PLC0415 - loads compiled kernels
    from veilscore.models.filed import load_model  # noqa: PLC0415

    with contextlib.suppress(ConfigError):
        if task != Decide.task:
            purpose = purpose or load_model(home / "models" / name / "model.json").provenance.purpose
            return (Ask(purpose, task, bank, name, now_s),)
        filed = load_decision(home, name)
        purpose, bits = purpose or filed.decision.purpose, filed.decision.bits
        return tuple(Ask(purpose, task, bank, name, now_s, holder, bits) for holder in filed.holders)
    return ()


def token_of(
    home: Path, bank: str, firm: str, name: str, purpose: str, task: str, request_id: str
) -> tuple[Path, Signed] | None:
    """Return the token, with its file, under which the bank asks about a firm now; None if it imported none.

    A request that is repeated after its answer goes with the token that served it, so that it costs no other one.

    name : of the model or decision; purpose : empty for any.
    """
    with contextlib.suppress(OSError, ConfigError):
        served = _note(home / "consents", request_id).read_text(encoding="utf-8")
        path = home / "consents" / "used" / Path(served).name
        return path, Signed.from_text(read_text(path, "consent"), str(path))
    now_s = time.time()
    asks = partial(asks_of, home, bank, name, purpose, now_s, task)
    return token_for(home, spellings(firm), now_s, task, asks, purpose=purpose)


def token_for(
    home: Path,
    spellings: Sequence[str],
    now_s: float,
    task: str,
    asks: Callable[[], Sequence[Ask]],
    *,
    purpose: str = "",
) -> tuple[Path, Signed] | None:
    """Return the token in HOME/consents/tokens that covers what is asked of a firm.

    None if the firm gave no token for this task and purpose (an empty purpose fits any).

    Of several that cover it, that which ends first. Where none does, one of the firm's for the task all the same: the
    holder's refusal then says what it lacks.

    spellings : how the firm's id may be written, normalised or not.
    asks : what is asked (`asks_of`), where there is a choice.
    """
    found = [
        (path, signed, claim)
        for path, signed, claim in _kept(home)
        if task in claim.scope.tasks
        and purpose in {"", claim.scope.purpose}
        and claim.scope.not_before_s <= now_s < claim.scope.expires_s
        and signed.commitments in {row.tobytes() for row in commit(claim.salt, spellings)}
    ]
    if len(found) > 1:
        asked = asks()

        def fitness(one: tuple[Path, Signed, Claim]) -> tuple[bool, float]:
            scope = one[2].scope
            return any(ask.refusal(scope, "") for ask in asked), scope.expires_s

        found.sort(key=fitness)
    return found[0][:2] if found else None


def _kept(home: Path) -> Iterator[tuple[Path, Signed, Claim]]:
    for path in sorted((home / "consents" / "tokens").glob("*.json")):
        with contextlib.suppress(ConfigError):  # damaged, or set aside meanwhile: another firm's is no hindrance
            signed = Signed.from_text(read_text(path, "consent"), str(path))
            yield path, signed, claim_of(signed)


def spellings(firm: str) -> tuple[str, ...]:
    """Return how a firm's id may be written: as it stands, and as each kind of id that it can be."""
    found = [firm]
    for normaliser in ("uscc", "text"):
        with contextlib.suppress(DataError):
            found.append(normalise_one(firm, normaliser))
    return tuple(found)


def set_aside(path: Path, signed: Signed, request_id: str) -> None:
    """Move a token that served its one request to HOME/consents/used, and note which one; a reusable one stays.

    A request that was repeated while it ran moves it first: then it is there already.
    """
    if claim_of(signed).once:
        consents = path.parent.parent
        note = _note(consents, request_id)
        for folder in (consents / "used", note.parent):
            private_folder(folder)
        write_atomically(note, lambda file: file.write(path.name.encode()))
        with contextlib.suppress(FileNotFoundError):
            path.replace(consents / "used" / path.name)


def _note(consents: Path, request_id: str) -> Path:
    """Return the file that says which token served a request, if one has."""
    return consents / "served" / hashlib.sha256(request_id.encode()).hexdigest()[:32]
