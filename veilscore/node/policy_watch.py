"""A running node takes the policy and the people of its node.yaml anew when the file changes; nothing is restarted.

What was promised stays: a job that was accepted is refused at its next step if the new policy does not allow it, and an
opening if the new account does. A file that cannot be read changes nothing, and that is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from veilscore.errors import VeilscoreError
from veilscore.evidence.facts import policy_digest
from veilscore.evidence.recorder import EvidenceRecorder
from veilscore.fabric.watches import described, for_ever
from veilscore.terms.node_config import RULES, NodeConfig, load_node_config

POLL_S = 1.0


class PolicyWatch:
    """Looks after one node's policy.

    home, node : the node's home, and its configuration, into which newer rules are taken.
    recorder : logs which policy holds from then on.
    changed : called when it does.
    """

    def __init__(self, home: Path, node: NodeConfig, recorder: EvidenceRecorder, changed: Callable[[], None]) -> None:
        self._home, self._node, self._recorder, self._changed = home, node, recorder, changed
        self._seen = self._state()
        self._log = structlog.get_logger("veilscore.node.policy").bind(party=node.name)

    async def watch(self) -> None:
        """Take what is new, for ever."""
        await for_ever(POLL_S, (self.take,), self._failed)

    async def take(self) -> None:
        """Read the file if it changed, and take its rules if they did; ConfigError if it cannot be read."""
        if (state := self._state()) == self._seen:
            return
        self._seen = state
        newer = await asyncio.to_thread(load_node_config, self._home)
        same = all(getattr(newer, name) == getattr(self._node, name) for name in RULES)
        later = self._node.take_rules(newer)
        if later:
            self._log.warning("node.yaml: restart the node for other keys", keys=list(later))
        if not same:
            self._changed()
            self._recorder.noted("policy", policy=policy_digest(self._node))
            self._log.warning("policy taken from node.yaml", digest=policy_digest(self._node)[:16])

    def _state(self) -> object:
        try:
            status = (self._home / "node.yaml").stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _failed(self, error: Exception) -> None:
        said = {"message": error.message} if isinstance(error, VeilscoreError) else described(error)
        self._log.error("node.yaml: the policy of before holds", **said)
