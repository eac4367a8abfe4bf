"""Carry PySyft jobs over Google Drive, end-to-end encrypted: connect two people, push a packed job, sync.

Needs pip install 'veilscore[syft]'; docs/sandbox.md says how to get a token, and what Google sees.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from syft_rds.client import SyftRDSClient

ACTIONS: dict[str, Callable[[SyftRDSClient, str], object]] = {
    "add": lambda client, owner: client.add_peer(owner, sync=False),
    "approve": lambda client, modeller: client.approve_peer_request(modeller),
    "push": lambda client, job: client.sync_engine.push_job_files(Path(job).resolve()),
    "sync": lambda client, _: client.sync(),
}


def connect(email: str, token: Path, *, owner: bool, encrypted: bool) -> SyftRDSClient:
    """Client of PySyft; its own `login_do` and `login_ds` do not encrypt."""
    from syft_rds.client import SyftRDSClient  # noqa: PLC0415 - an extra, and slow to import
    from syft_rds.config import SyftRDSClientConfig  # noqa: PLC0415

    config = SyftRDSClientConfig.for_jupyter(
        email=email, token_path=token, has_do_role=owner, has_ds_role=not owner, encryption=encrypted
    )
    client = SyftRDSClient.from_config(config)
    client.sync_engine.write_local_version()
    client.load_peers()
    return client


def main(words: Sequence[str] | None = None) -> None:
    """Run one action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=ACTIONS, help="add OWNER, approve MODELLER, push FOLDER, or sync")
    parser.add_argument("what", nargs="?", default="", help="an address or a job's folder, where the action needs one")
    parser.add_argument("--email", required=True, help="your own address")
    parser.add_argument("--token", type=Path, required=True, help="file of your Google token")
    parser.add_argument("--owner", action="store_true", help="you own the data; otherwise you are the modeller")
    parser.add_argument("--plain", action="store_true", help="without encryption, as both sides or neither")
    given = parser.parse_args(words)
    ACTIONS[given.action](connect(given.email, given.token, owner=given.owner, encrypted=not given.plain), given.what)


if __name__ == "__main__":
    main()
