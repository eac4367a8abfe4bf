"""Calls nodes with an identity that takes part in no protocol: of a command, a console, a bank's own work."""

from __future__ import annotations

from veilscore.fabric.fabric import Fabric
from veilscore.keys.identity import Identity
from veilscore.terms.federation import Federation
from veilscore.wire.inbox import WireLimits

CALL_S = 15.0  # for a connection, and for an answer


def calling_fabric(identity: Identity, federation: Federation) -> Fabric:
    """Return a fabric that calls and is sent no message of any session."""
    limits = WireLimits(connect_timeout_s=CALL_S)
    return Fabric(identity, federation, accept_session=lambda _session, _sender: False, limits=limits)
