"""What the bank keeps of its openings, so that the same firm and model again needs nothing opened again.

Holders that released a firm's part before say under which request (`released_as`). If all of those who would take part
name the same request, and the bank still has what their parts added up to then, that is the answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from veilscore.files.journal import Journal
from veilscore.online.plan import HolderReply, Plan
from veilscore.protocols.online import Evaluated


class Openings:
    """Sums of opened parts, by the request under which holders opened them.

    Parameters
    ----------
    journal : the bank's; a key that begins with a line feed is no request id.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def keep(self, release_id: str, plan: Plan, together: int) -> None:
        """Keep what the parts of those who took part added up to, or the number of the band."""
        body = json.dumps({"together": together, **_depends_on(plan)}).encode()
        self._journal.keep(f"\n{release_id}", b"", body)

    def repeat_of(self, plan: Plan) -> int | None:
        """Sum of the parts of those who take part if all released them under one request that is kept, else None."""
        references = {a.released_as for a in plan.taking_part}
        kept = self._journal.get(f"\n{next(iter(references))}") if len(references) == 1 else None
        if kept is None or "" in references:
            return None
        body = json.loads(kept[1])
        return int(body.pop("together")) if body == {"together": body["together"], **_depends_on(plan)} else None


def _depends_on(plan: Plan) -> dict[str, object]:
    """What a sum of parts belongs to: who took part and, for trees, the bank's own codes, which its factors follow.

    A band belongs to its cut-offs and to all that the bank adds, so always to its own codes.
    """
    own = hashlib.sha256(plan.own_codes.astype("<u2").tobytes()).hexdigest() if plan.model.trees or plan.band else ""
    depends: dict[str, object] = {"holders": sorted(a.holder for a in plan.taking_part), "own": own}
    return depends if plan.band is None else {**depends, "bands": plan.band.bands.sha256.hex()}


def as_if_opened(answers: Sequence[HolderReply]) -> tuple[HolderReply, ...]:
    """Answers in which holders that released before count as ready, to see who would take part."""
    nothing = Evaluated((), np.zeros(1, np.uint64))
    return tuple(replace(a, evaluated=nothing) if a.released_as else a for a in answers)
