"""A home's place in its federation: its identity and its federation file, checked against its node.yaml."""

from __future__ import annotations

from pathlib import Path

from veilscore.errors import ConfigError
from veilscore.keys.identity import Identity, current_folder, load_identity
from veilscore.terms.charter import check_whole
from veilscore.terms.federation import Federation, load_federation
from veilscore.terms.node_config import NodeConfig


def load_membership(home: Path, config: NodeConfig) -> tuple[Identity, Federation]:
    """Return the identity and the federation of a home, checked against its node.yaml."""
    source = config.key.open(home)
    identity = load_identity(config.identity, passphrase=lambda: source.secret(current_folder(config.identity)))
    federation = load_federation(config.federation)
    check_whole(federation)
    if (identity.name, identity.role) != (config.name, config.role):
        raise ConfigError(
            f"{home / 'node.yaml'} says {config.name} ({config.role}), the identity in {config.identity} is that "
            f"of {identity.name} ({identity.role}); correct node.yaml or move the right identity there"
        )
    return identity, federation
