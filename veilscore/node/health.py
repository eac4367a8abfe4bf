"""What an operator of a node should look at: the process, its certificate, the disk, keys that lie side by side, forks.

Read from the home alone, so that it is told also where the node does not answer.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from veilscore.evidence.log import FOLDER
from veilscore.fabric.process import running_pid
from veilscore.keys.identity import RECOVERY_FILE, current_folder
from veilscore.terms.federation import Federation
from veilscore.terms.node_config import NodeConfig

SOON_DAYS = 30
LITTLE_DISK = 1 << 30
CLOCK_S = 5.0  # far below what ends a greeting, so that it is mended before


@dataclass(frozen=True)
class HealthFinding:
    """One thing to look at.

    text : with places for the figures, as the console's catalogues have it.
    critical : whether the node does not do its work, or soon will not.
    """

    text: str
    critical: bool
    values: Mapping[str, int | str] = field(default_factory=dict)

    def figures(self, size: Callable[[int], str]) -> dict[str, int | str]:
        """Return what goes into the places; size : writes a number of bytes."""
        return {name: size(int(value)) if name == "free" else value for name, value in self.values.items()}

    @property
    def plain(self) -> str:
        """Return the text with its figures, in English."""
        return self.text % self.figures(lambda size: f"{size / 1e6:.0f} MB")


def findings(
    home: Path, config: NodeConfig, federation: Federation, clocks: Mapping[str, float] | None = None
) -> list[HealthFinding]:
    """Return what is to be looked at now, the node itself first.

    clocks : how many seconds other nodes' clocks are ahead, as a running node knows.
    """
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
    found += _of_others(config.name, federation, now, clocks or {})
    free = shutil.disk_usage(home).free
    if free < LITTLE_DISK:
        found.append(HealthFinding("Only %(free)s of disk are free.", critical=True, values={"free": free}))
    if any((folder / RECOVERY_FILE).exists() for folder in (config.identity, current_folder(config.identity))):
        found.append(
            HealthFinding(
                "The recovery key lies beside the key that it revokes: move it to a safe place.", critical=False
            )
        )
    if any((home / FOLDER / "forks").glob("*.json")):
        found.append(HealthFinding("A party signed two histories: see evidence/forks in the home.", critical=False))
    return found


def _of_others(
    own: str, federation: Federation, now: dt.datetime, clocks: Mapping[str, float]
) -> Iterator[HealthFinding]:
    for name, ahead_s in sorted(clocks.items()):
        if abs(ahead_s) > CLOCK_S:
            yield HealthFinding(
                "The clock of %(party)s is %(seconds)d s off this one: set both by a time server.",
                critical=False,
                values={"party": name, "seconds": round(ahead_s)},
            )
    for member in federation.members:
        accepted = federation.history.accepted(member.name, now.timestamp())[:1]
        left = [one.not_after - now for one in accepted if member.role != "operator" and member.name != own]
        if left and left[0] < dt.timedelta(days=SOON_DAYS):
            yield HealthFinding(
                "The certificate of %(party)s expires in %(days)d days.",
                critical=False,
                values={"party": member.name, "days": left[0].days},
            )
