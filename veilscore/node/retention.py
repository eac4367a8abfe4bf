"""Removes what is older than the rules say: a timer calls it once a day, and a call more does no harm."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from veilscore.errors import ConfigError, StateError
from veilscore.evidence.erasures import Erasure
from veilscore.evidence.facts import SCORES_FILE
from veilscore.evidence.opening import forget_old
from veilscore.node.forgetting import Keeper, Subject, forget, keepers_of, unfinished, write_down
from veilscore.release.consent import Signed, claim_of
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.settings import read_text

_DAY_S = 86400.0
_RESULTS = (SCORES_FILE, "decisions.csv")
BACKUPS = "*.veilscore"  # as docs and the systemd unit name them


@dataclass(frozen=True)
class Swept:
    """What went: files by kind, firms whose time was over, and digests of firms whose forgetting was cut off."""

    gone: dict[str, int]
    firms: int
    unfinished: tuple[str, ...]


def too_old(home: Path, node: NodeConfig, now_s: float | None = None) -> Iterator[tuple[str, Path]]:
    """Yield kind and path of every file that is older than the rules say; of a job, as of its last file of results."""
    now_s, rules = time.time() if now_s is None else now_s, node.retention
    for path in (p for name in _RESULTS for p in sorted(home.glob(f"jobs/*/{name}"))):
        if _written_s(path) < now_s - rules.results_days * _DAY_S:
            yield "results", path
    for path in (p for kind in ("tokens", "used", "lists") for p in sorted((home / "consents" / kind).glob("*.json"))):
        with contextlib.suppress(ConfigError):  # damaged: a person looks at it
            signed = Signed.from_text(read_text(path, "consent"), str(path))
            if claim_of(signed).scope.expires_s < now_s - rules.consents_days * _DAY_S:
                yield "consents", path
    for path in sorted((home / rules.backups).glob(BACKUPS)) if rules.backups is not None else ():
        if _written_s(path) < now_s - rules.backups_days * _DAY_S:
            yield "backups", path


def sweep(home: Path, node: NodeConfig) -> Swept:
    """Remove what is too old, and forget firms whose time is over; the log says how much, where anything went.

    Raises StateError where a file cannot be removed; what went before stays gone, and the next call goes on.
    """
    gone = Counter[str]()
    for kind, path in list(too_old(home, node)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(
                f"{path} is too old and cannot be removed: {error.strerror}; check owner and mode"
            ) from error
        gone[kind] += 1
    gone["openings"] = forget_old(home, node.audit)
    keepers = keepers_of(home, node)
    firms = _over(keepers)
    for firm in firms:
        forget(home, node, keepers, Subject.of(home, firm), search=False)
    for keeper in keepers if firms else ():
        keeper.finish()
    if +gone:
        write_down(home, node, Erasure(kind="swept", number=secrets.token_hex(16), gone=dict(sorted((+gone).items()))))
    return Swept(dict(+gone), len(firms), tuple(unfinished(home)))


def _over(keepers: list[Keeper]) -> list[str]:
    """Return the firms that an institution's places say are to go."""
    return sorted({firm for keeper in keepers for firm in getattr(keeper, "over", list)()})


def _written_s(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return float("inf")
