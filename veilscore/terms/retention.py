"""What node.yaml says of how long a node keeps what it no longer works with."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from veilscore.terms.settings import Strict


class RetentionRules(Strict):
    """Says how long a node keeps what it no longer works with; `veilscore retention run` removes what is older.

    Ledgers, log and receipts of jobs are not in it: they bound and prove what was opened, and name no firm.
    """

    results_days: int = Field(
        default=1825, ge=1, description="bank: files of scores and decisions of finished jobs, a line a firm"
    )
    consents_days: int = Field(
        default=1095, ge=0, description="tokens and lists, after they ended: for so long somebody may ask for proof"
    )
    backups: Path | None = Field(
        default=None, description="folder of this node's backups; a relative path begins at the home; null: not swept"
    )
    backups_days: int = Field(
        default=35, ge=1, description="backups in that folder; what was deleted lives on in them for so long"
    )
