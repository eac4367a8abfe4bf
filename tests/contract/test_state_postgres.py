"""The contract of the coordinator's state on a PostgreSQL server made for this test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import require
from state_contract import StateContract

from coordinator.state import State


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).parent if path else None


def _as_user() -> tuple[list[str], int | None]:
    """Command prefix and user id: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return [], None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user.pw_uid
    return [], None


@pytest.fixture(scope="module")
def server_url():
    programs = _programs()
    require(programs, "PostgreSQL server not installed (Debian package postgresql)")
    prefix, user = _as_user()
    require(os.geteuid() != 0 or user is not None, "PostgreSQL refuses to run as root and there is no other user")
    # A short path of its own: socket paths end at 107 bytes, and pytest's folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="vs-pg-") as folder:
        if user is not None:
            os.chown(folder, user, -1)
        data = Path(folder) / "data"
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": folder}

        def command(program, *arguments):
            log = Path(folder) / "out"
            with log.open("ab") as out:
                done = subprocess.run(
                    [*prefix, programs / program, *arguments],
                    cwd=folder, env=environment, stdout=out, stderr=out, timeout=120, check=False,
                )  # fmt: skip
            assert done.returncode == 0, log.read_text()

        command("initdb", "-D", data, "-U", "veilscore", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        command("pg_ctl", "-D", data, "-w", "-l", Path(folder) / "server.log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://veilscore@/postgres?host={folder}"
        finally:
            command("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def state(server_url):
    state = State(server_url)
    yield state
    state.close()


class TestPostgres(StateContract):
    @pytest.fixture
    def reopen(self, server_url):
        return lambda: State(server_url)
