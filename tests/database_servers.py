"""Database servers made for a test, in a folder of their own, without a network."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import require


def _as_user(*names: str) -> tuple[list[str], int | None]:
    """Command prefix and user id: database servers refuse to run as root."""
    if os.geteuid() != 0:
        return [], None
    for name in (*names, "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user.pw_uid
    return [], None


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = found[-1] if found else shutil.which("initdb")
    require(path, "PostgreSQL server not installed (Debian package postgresql)")
    programs = Path(path).parent
    prefix, user = _as_user("postgres")
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


@contextmanager
def mariadb() -> Iterator[str]:
    """Yield the URL of a MariaDB server."""
    server, installer = shutil.which("mariadbd", path="/usr/sbin:/usr/bin"), shutil.which("mariadb-install-db")
    require(server and installer, "MariaDB server not installed (Debian package mariadb-server)")
    prefix, user = _as_user("mysql")
    require(os.geteuid() != 0 or user is not None, "MariaDB refuses to run as root and there is no other user")
    with tempfile.TemporaryDirectory(prefix="vs-my-") as folder:
        if user is not None:
            os.chown(folder, user, -1)
        data, socket, log = Path(folder) / "data", Path(folder) / "socket", Path(folder) / "log"
        install = [installer, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        options = [
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={socket}",
            "--skip-networking",
            "--character-set-server=utf8mb4",
        ]
        with log.open("ab") as out:
            subprocess.run([*prefix, *install], cwd=folder, stdout=out, stderr=out, timeout=120, check=True)
            running = subprocess.Popen([*prefix, server, *options], cwd=folder, stdout=out, stderr=out)
            try:
                for _ in range(600):
                    if socket.exists() or running.poll() is not None:
                        break
                    time.sleep(0.1)
                assert running.poll() is None, log.read_text()
                yield f"mysql+pymysql://root@localhost/test?unix_socket={socket}&charset=utf8mb4"
            finally:
                running.kill()
                running.wait(30)
