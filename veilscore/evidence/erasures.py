"""The proof that something was deleted, in the node's own log: how much of what went and stayed, and no firm's id.

A firm stands there as the digest under the node's own key (`release/pseudonyms.py`): who has the home can check that
an id was forgotten, who has the log alone cannot tell whose it was. A deletion that was begun again after a kill has
one number, so that it is logged once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from veilscore.errors import EvidenceError
from veilscore.evidence.log import FOLDER, LOG_FILE, scan
from veilscore.terms.settings import Strict, parse_json

ASK = "erased"  # of an EvidenceCall by the node's own identity (`console_acts.py`)
FORGOTTEN, SWEPT = "forgotten", "swept"
_Counts = Annotated[dict[Annotated[str, Field(max_length=60)], Annotated[int, Field(ge=0)]], Field(max_length=100)]


class Erasure(Strict):
    """What was deleted.

    kind : a firm, on request or since its time was over, or what was too old.
    number : of this deletion; random.
    firm : digest of the firm under the node's key, 16 hexadecimal digits; empty where it was not about one.
    gone, stays : counts by table or kind of file.
    """

    kind: Literal["forgotten", "swept"]
    number: str = Field(pattern=r"^[0-9a-f]{32}$")
    firm: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")
    gone: _Counts = Field(default_factory=dict)
    stays: _Counts = Field(default_factory=dict)


def erasures(home: Path) -> list[Erasure]:
    """Return all that the log of a home says was deleted; EvidenceError where it cannot be read."""
    found: list[Erasure] = []

    def visit(_: int, body: bytes) -> None:
        entry = parse_json(body)
        if entry.get("kind") in {FORGOTTEN, SWEPT}:
            del entry["time_ms"]
            found.append(Erasure.model_validate(entry))

    path = home / FOLDER / LOG_FILE
    try:
        scan(path, visit=visit)
    except (ValueError, AttributeError, KeyError) as error:
        raise EvidenceError(f"{path} holds an entry that cannot be read") from error
    return found
