"""Restores a home from its backup and checks it as a node that starts on it would, without starting one."""

from __future__ import annotations

import contextlib
import json
import shlex
import sqlite3
from collections.abc import Callable
from pathlib import Path

from veilscore.errors import StateError
from veilscore.evidence.documents import FederationKeys
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.log import FOLDER, LOG_FILE, scan
from veilscore.evidence.verify import heads_in, verify_log
from veilscore.fabric.process import running_pid
from veilscore.files.backup import BackupManifest, restore
from veilscore.files.sqlite_file import told
from veilscore.node.state import JOBS, LoggedState
from veilscore.terms.charter import check_whole
from veilscore.terms.federation import load_federation
from veilscore.terms.node_config import NodeConfig, load_node_config


def restore_home(
    source: Path, home: Path, passphrase: Callable[[], str], *, replace: bool = False
) -> tuple[BackupManifest, list[str]]:
    """Restore a home and return what the backup held and what was found to hold, as sentences.

    Raises ConfigError, StateError or EvidenceError as `files.backup.restore` and `check_home` do; a home that does not
        hold is left where it is, and no node starts on it either.
    """
    if (pid := running_pid(home)) is not None:
        raise StateError(
            f"a node runs on {home}, process {pid}: stop it first (`veilscore node stop {shlex.quote(str(home))}`)"
        )
    manifest = restore(source, home, passphrase, replace=replace)
    return manifest, check_home(home.resolve())


def check_home(home: Path) -> list[str]:
    """Verify the log of a home, its SQLite files, and state files against the log.

    Raises EvidenceError where the log does not hold, StateError where a file is damaged or older than the log.
    """
    node = load_node_config(home)
    for path in sorted((home / "state").glob("*.db")):
        with told(f"state file {path}", "restore it"), contextlib.closing(sqlite3.connect(path)) as db:
            if (said := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise StateError(f"{path} is damaged: {str(said)[:100]}")
    log = home / FOLDER / LOG_FILE
    if not log.is_file():
        return ["It has no log: its node never ran."]
    federation = load_federation(node.federation)
    check_whole(federation)
    receipts = sorted((home / FOLDER / "receipts").glob("*.json"))
    known = [head for path in receipts for head in heads_in(path.read_bytes())]
    proved = verify_log(log, FederationKeys(lambda: federation), known)
    if node.role in {"bank", "holder"}:
        proved.append(_check_state(home, node, log))
    return proved


def _check_state(home: Path, node: NodeConfig, log: Path) -> str:
    state = LoggedState(home, node)
    scan(log, visit=lambda _, entry: state.visit(json.loads(entry)))
    gaps = state.gaps(Ledger(home / JOBS))
    if gaps:
        raise StateError(f"{gaps[0].file} lacks {gaps[0].lacks}, which the log holds", party=node.name)
    return "Its state files hold all that its log says."
