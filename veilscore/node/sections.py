"""A holder's node writes sections of credit reports for a bank that asks, as `veilscore section write` does.

Messages: WriteSection, from a bank: the firm's consent, the firm's id, which data set. The answer: the signed section.
Reveals : to the bank, of a firm that consented, what docs/assistants.md lists: bins of the fields that consent and the
          holder's policy name. To the holder, that the firm asked for a report at this bank. To others nothing.
Assumes : nothing of who asks. The consent names the bank, and is verified before a record is read; what is asked again
          within a quarter is told as it was first told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from veilscore.errors import MessageError, RefusedError, VeilscoreError
from veilscore.fabric.fabric import Fabric
from veilscore.release.consent import Signed, claim_of
from veilscore.reports.section_desk import SectionDesk
from veilscore.terms.federation import Member
from veilscore.terms.node_config import NodeConfig
from veilscore.v1 import control_pb2 as pb

_MOST_CONSENT_BYTES, _MOST_ID = 4 << 20, 64  # a list of 100,000 firms is 3.2 MB


class SectionService:
    """Answers WriteSection at one holder's node.

    config : returns the node's configuration as it is now; fabric : the method is registered at it.
    """

    def __init__(self, home: Path, config: Callable[[], NodeConfig], fabric: Fabric) -> None:
        self._home, self._config, self._fabric = home, config, fabric
        self._one = asyncio.Lock()  # each opens files and reads a table: a bank that asks for many waits for each
        self._log = structlog.get_logger("veilscore.node.sections").bind(party=fabric.name)
        fabric.register("WriteSection", {"bank"}, pb.AskSection, self._write)

    async def _write(self, asked: pb.AskSection, peer: Member) -> pb.WrittenSection:
        if not 0 < len(asked.firm) <= _MOST_ID or len(asked.consent) > _MOST_CONSENT_BYTES:
            raise MessageError(f"{peer.name} asked for a section with no firm or consent that can be", party=peer.name)
        consent = Signed.from_bytes(asked.consent, peer.name)
        if claim_of(consent).scope.bank != peer.name:
            raise RefusedError("the consent is to reports of another bank", party=peer.name)
        async with self._one:
            text, count = await asyncio.to_thread(self._written, consent, asked.firm, asked.dataset[:60])
        self._log.info("section", bank=peer.name, fields=count)
        return pb.WrittenSection(section=text)

    def _written(self, consent: Signed, firm: str, dataset: str) -> tuple[str, int]:
        config = self._config()
        desk = SectionDesk(self._home, config, self._fabric.identity, self._fabric.federation)
        try:
            (signed,) = desk.write(consent, [firm], dataset)
        except RefusedError:
            raise
        except VeilscoreError as error:  # names of files and columns are the holder's own
            self._log.error("section not written", error=type(error).__name__, message=error.message)
            why = f"{config.name} can write no section of data set {dataset!r} now; its own log says why"
            raise RefusedError(why, party=config.name) from error
        return signed.to_text(), len(signed.section.told)
