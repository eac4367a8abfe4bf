"""Runs one Python file under bubblewrap, with nothing of the machine but a read-only Python, the code and the data.

Source: bwrap(1), namespaces(7). New user, mount, pid, network, IPC, UTS and cgroup namespaces; every capability
dropped; `no_new_privs`; a seccomp filter; the root, /dev, code and data read-only; /tmp and /outputs file systems in
memory with a fixed size; own session; death with the owner's process.

Started by root, the code does not stay root: a first bubblewrap makes the folders reachable and a plain uid that no
account has starts the second. There is no way to run without bubblewrap.

Does not protect: against a hole in the kernel; against side channels (time, load, caches) towards a process of the
same sender on the same machine.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from veilscore.errors import ConfigError, SandboxUnavailableError
from veilscore.sandbox.policy import SandboxLimits
from veilscore.sandbox.seccomp import filter_program

INSTALL = "install it: apt-get install bubblewrap"
INNER_ID = "65534"
_FIRST_UID = 0x6F000000  # far above any account; the process id is added, so each run as root has a uid of its own
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/ld.so.cache", "/etc/alternatives")
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",  # noqa: S108 - inside the sandbox, private
    "TMPDIR": "/tmp",  # noqa: S108
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VEILSCORE_DATA": "/data/data.csv",
    "VEILSCORE_OUTPUTS": "/outputs",
}


@dataclass(frozen=True)
class Inside:
    """Says what is put into the sandbox.

    code : folder, seen as /code.
    data : folder with data.csv, seen as /data.
    entry : Python file to run, relative to `code`.
    python : interpreter; its environment is seen at its own path.
    """

    code: Path
    data: Path
    entry: str
    python: Path


def default_python() -> Path:
    """Return the interpreter that runs Veilscore, as the environment calls it."""
    return Path(os.path.normpath(sys.executable))  # links stay: they make it a virtual environment


def bwrap() -> str:
    """Return the path of bubblewrap; SandboxUnavailableError with the install line if it is absent."""
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxUnavailableError(f"bubblewrap is not on this machine and code is never run without it; {INSTALL}")
    return found


def check_host() -> None:
    """Make an empty sandbox, to know whether this machine can.

    Raises SandboxUnavailableError where bubblewrap or libseccomp is missing, or the kernel forbids namespaces.
    """
    filter_program()
    program = bwrap()
    binds = [part for path in _SYSTEM for part in _system_folder(path)]
    command = [*_as_plain_user(program, [], []), program, *_isolation(), *binds, "--proc", "/proc", "--", "/bin/true"]
    try:
        done = subprocess.run(  # noqa: S603 - own command
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailableError(f"bubblewrap does not start: {type(error).__name__}") from error
    if done.returncode != 0:
        raise SandboxUnavailableError(
            f"bubblewrap cannot make namespaces here ({done.stderr.strip()[:200]}): the kernel or a surrounding "
            "container forbids them; allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces>0) or run on another machine"
        )


def command_line(
    inside: Inside, limits: SandboxLimits, *, control: int, info: int, seccomp: int, bootstrap: str
) -> list[str]:
    """Return the whole command.

    control, info, seccomp : descriptors that the command inherits: the socket for folders, the pipe on which bubblewrap
        says the process id of the sandbox, and the filter.
    bootstrap : text of the first Python inside.
    """
    program = bwrap()
    interpreter = python_folders(inside.python)
    shown = [part for path in _SYSTEM for part in _system_folder(path)]
    shown += [part for path in _ETC for part in ("--ro-bind-try", path, path)]
    # after the private /tmp, which would hide an environment that lies below the machine's own
    python = [part for path in interpreter for part in ("--ro-bind", str(path), str(path))]
    own = ["--ro-bind", str(inside.code), "/code", "--ro-bind", str(inside.data), "/data"]
    scratch = ["--size", str(limits.scratch_bytes), "--tmpfs", "/tmp"]  # noqa: S108 - inside the sandbox
    outputs = ["--size", str(limits.output_bytes), "--tmpfs", "/outputs"]
    environment = [part for item in _ENVIRONMENT.items() for part in ("--setenv", *item)]
    numbers = (limits.processes, limits.memory_bytes, limits.file_bytes, limits.cpu_s, limits.open_files)
    report = ["--info-fd", str(info)]
    outer = _as_plain_user(program, [*interpreter, inside.code, inside.data], report)
    return [
        *outer,
        program,
        *([] if outer else report),
        *_isolation(),
        *shown,
        # a shared map of /dev/zero is memory that no count shows (seccomp.py)
        *("--proc", "/proc", "--dev", "/dev", "--dev-bind", "/dev/null", "/dev/zero", "--remount-ro", "/dev"),
        *scratch,
        *outputs,
        *python,
        *own,
        *("--remount-ro", "/", "--chdir", "/code", "--clearenv"),
        *environment,
        *("--seccomp", str(seccomp), "--"),
        *(str(inside.python), "-I", "-B", "-c", bootstrap, str(control), inside.entry, *map(str, numbers)),
    ]


def _isolation() -> list[str]:
    return [
        *("--unshare-all", "--unshare-user", "--uid", INNER_ID, "--gid", INNER_ID, "--cap-drop", "ALL"),
        *("--new-session", "--die-with-parent", "--hostname", "sandbox"),
    ]


def _as_plain_user(program: str, reachable: list[Path], report: list[str]) -> list[str]:
    """Return nothing for a plain user, and for root the command that makes `reachable` visible and gives root up.

    The first bubblewrap has a process namespace of its own, whose end ends all within: a death signal alone would not
    reach the second, which is another user's.
    """
    if os.geteuid() != 0:
        return []
    uid = str(_FIRST_UID + os.getpid())
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SandboxUnavailableError("setpriv, with which root is given up, is missing; apt-get install util-linux")
    parents = {Path("/etc"), Path("/tmp")} | {parent for path in reachable for parent in path.parents[:-1]}  # noqa: S108 - bubblewrap mounts there
    binds = [part for path in sorted(parents) for part in ("--perms", "0755", "--dir", str(path))]
    binds += [part for path in _SYSTEM for part in _system_folder(path)]
    binds += [part for path in _ETC for part in ("--ro-bind-try", path, path)]
    binds += [part for path in reachable for part in ("--ro-bind", str(path), str(path))]
    drop = [setpriv, "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    stage = [program, *report, "--unshare-pid", "--die-with-parent", *binds]
    return [*stage, "--dev-bind", "/dev", "/dev", "--bind", "/proc", "/proc", "--", *drop, "--no-new-privs", "--"]


def _system_folder(path: str) -> tuple[str, ...]:
    if Path(path).is_symlink():
        return ("--symlink", str(Path(path).readlink()), path)
    return ("--ro-bind", path, path) if Path(path).is_dir() else ()


@functools.cache
def python_folders(python: Path) -> tuple[Path, ...]:
    """Return the folders that an interpreter needs beyond /usr: its environment and what that was made from.

    Raises ConfigError where it does not run, or lies where nearly everything would have to be shown.
    """
    ask = "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"
    try:
        done = subprocess.run([str(python), "-I", "-c", ask], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - the owner's choice
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"Python {python} does not run; set `python` in sandbox.yaml") from error
    folders = sorted({Path(line) for line in done.stdout.split("\n") if line})
    for folder in folders:
        if len(folder.parts) < 3 and folder != Path("/usr"):
            raise ConfigError(f"Python {python} lies in {folder}: make an environment in a folder of its own")
    system = Path("/usr")
    return tuple(folder for folder in folders if folder != system and system not in folder.parents)


def check_hidden(home: Path, inside: Inside) -> None:
    """Refuse to run where the owner's home lies inside a folder that the code would see (ConfigError)."""
    resolved = home.resolve()
    for folder in (*map(Path, _SYSTEM), *python_folders(inside.python)):
        if resolved.is_relative_to(folder.resolve()):
            raise ConfigError(f"home {home} lies in {folder}, which sandboxed code sees: move the home elsewhere")


def filter_file(stack: ExitStack) -> int:
    """Return the descriptor of a file with the filter, which `stack` closes."""
    descriptor = os.memfd_create("seccomp", 0)
    stack.callback(os.close, descriptor)
    os.write(descriptor, filter_program())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
