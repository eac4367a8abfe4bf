"""Sandboxed code may make the system calls of an allow-list, which libseccomp compiles to BPF.

Everything that is not on the list answers EPERM: mount, ptrace, namespaces, keys, bpf, io_uring, sockets other than
a pair of its own, and memory that no count of a process's own shows (memfd_create, System V segments, shared anonymous
maps). clone3 answers ENOSYS, so that libc falls back to clone, whose flags can be inspected. A call
through another architecture's table (32 bit, x32) ends the process.

Source: seccomp(2), libseccomp 2.5; list: what Python, numpy and their threads use.
"""

from __future__ import annotations

import errno
import functools
import tempfile
from types import ModuleType
from typing import Any

from veilscore.errors import SandboxUnavailableError

INSTALL = "install them: apt-get install libseccomp2, and pip install 'veilscore[sandbox]'"

_FILES = """
access chdir close close_range copy_file_range dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchdir fchmod
fchmodat fcntl fdatasync flock fstat fstatfs fsync ftruncate getcwd getdents getdents64 getxattr lgetxattr fgetxattr
link linkat lseek lstat mkdir mkdirat mknod mknodat newfstatat open openat pread64 preadv preadv2 pwrite64 pwritev
pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile stat statfs statx symlink
symlinkat truncate umask unlink unlinkat utime utimensat utimes write writev chmod
"""
_MEMORY = "brk madvise mincore mlock mprotect mremap msync munlock munmap membarrier"
_PROCESSES = """
arch_prctl execve execveat exit exit_group fork futex futex_waitv get_robust_list get_thread_area getcpu getegid
geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid
gettid getuid kill pause prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_yield set_robust_list set_thread_area
set_tid_address setpgid setrlimit setsid sigaltstack tgkill tkill vfork wait4 waitid capget
"""
_TIME_AND_EVENTS = """
alarm clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2
epoll_wait eventfd eventfd2 getitimer getrandom gettimeofday nanosleep pipe pipe2 poll ppoll pselect6 select
setitimer sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime times uname
"""
# no setsockopt, which enlarges what the kernel keeps for a socket
_OWN_PAIR = "getpeername getsockname getsockopt recvfrom recvmsg sendmsg sendto shutdown"
_AF_UNIX = 1
_MAP_SHARED, _MAP_ANONYMOUS = 0x01, 0x20
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME
_LOW_32 = 0xFFFFFFFF  # the kernel looks at the lower half only; comparing all 64 bits could be evaded
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX


@functools.cache
def filter_program() -> bytes:
    """Return the filter as BPF, as `bwrap --seccomp` reads it, compiled once a process.

    Raises SandboxUnavailableError where libseccomp or pyseccomp is not installed, and says how to install it.
    """
    library = _library()
    rules = library.SyscallFilter(library.ERRNO(errno.EPERM))
    for name in f"{_FILES} {_MEMORY} {_PROCESSES} {_TIME_AND_EVENTS} {_OWN_PAIR}".split():
        _allow(library, rules, name)
    _allow(library, rules, "clone", library.Arg(0, library.MASKED_EQ, _NEW_NAMESPACES, 0))
    _allow(library, rules, "socketpair", library.Arg(0, library.MASKED_EQ, _LOW_32, _AF_UNIX))
    # A shared map without a file keeps every page that was ever touched until the last byte of it is unmapped, shown by
    # no process; MAP_SHARED_VALIDATE has the bit of MAP_SHARED too.
    for flags in (0, _MAP_SHARED, _MAP_ANONYMOUS):
        _allow(library, rules, "mmap", library.Arg(3, library.MASKED_EQ, _MAP_SHARED | _MAP_ANONYMOUS, flags))
    for request in _IOCTLS:
        _allow(library, rules, "ioctl", library.Arg(1, library.MASKED_EQ, _LOW_32, request))
    rules.add_rule(library.ERRNO(errno.ENOSYS), "clone3")
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _library() -> ModuleType:
    try:
        import pyseccomp  # noqa: PLC0415 - looks for the shared library when it is imported
    except (ImportError, RuntimeError, OSError) as error:
        what = "pyseccomp" if isinstance(error, ImportError) else "the shared library libseccomp"
        raise SandboxUnavailableError(f"the sandbox needs {what}, which is not here; {INSTALL}") from error
    library: ModuleType = pyseccomp
    return library


def _allow(library: ModuleType, rules: Any, name: str, *conditions: Any) -> None:
    try:
        number = library.resolve_syscall(library.Arch.NATIVE, name)
    except (OSError, ValueError):
        return  # a call newer than this libseccomp, or unknown on this architecture: it stays refused
    if number >= 0:
        rules.add_rule(library.ALLOW, number, *conditions)
