"""What an operator of a node should look at: the process, its certificate, the disk, keys that lie side by side, forks.

Read from the home alone, so that it is told also where the node does not answer.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from veilscore.evidence.log import FOLDER
from veilscore.fabric.process import running_pid
from veilscore.keys.identity import RECOVERY_FILE
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import NodeConfig

SOON_DAYS = 30
LITTLE_DISK = 1 << 30


@dataclass(frozen=True)
class HealthFinding:
    """One thing to look at.

    text : with places for the figures, as the console's catalogues have it.
    critical : whether the node does not do its work, or soon will not.
    """

    text: str
    critical: bool
    values: Mapping[str, int] = field(default_factory=dict)

    def figures(self, size: Callable[[int], str]) -> dict[str, int | str]:
        """Return what goes into the places; size : writes a number of bytes."""
        return {name: size(value) if name == "free" else value for name, value in self.values.items()}


def findings(home: Path, config: NodeConfig, federation: Federation) -> list[HealthFinding]:
    """Return what is to be looked at now, the worst first."""
    found, now = [], dt.datetime.now(dt.UTC)
    if running_pid(home) is None:
        found.append(HealthFinding("The node does not run: start it with `veilscore node start`.", critical=True))
    for certificate in federation.history.accepted(config.name, now.timestamp())[:1]:
        left = certificate.not_after - now
        if left < dt.timedelta(days=SOON_DAYS):
            at_once = left < dt.timedelta(days=1)
            found.append(
                HealthFinding("The node's certificate expires in %(days)d days.", at_once, {"days": left.days})
            )
    free = shutil.disk_usage(home).free
    if free < LITTLE_DISK:
        found.append(HealthFinding("Only %(free)s of disk are free.", critical=True, values={"free": free}))
    if (config.identity / RECOVERY_FILE).exists():
        found.append(
            HealthFinding(
                "The recovery key lies beside the key that it revokes: move it to a safe place.", critical=False
            )
        )
    if any((home / FOLDER / "forks").glob("*.json")):
        found.append(HealthFinding("A party signed two histories: see evidence/forks in the home.", critical=False))
    return found
