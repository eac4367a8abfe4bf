"""Attacks on the sandbox by submitted code, each named, each run for real and each failing.

Every attack is code that was approved by mistake: it reports in its output what it got hold of. That the reporting
works is shown by the first test, so that an attack cannot fail for another reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from sandbox_home import make_homes, need_sandbox, set_policy, submit, write_code

from veilscore.errors import IdentityError, SandboxError
from veilscore.sandbox import run as sandbox_run
from veilscore.sandbox.bubblewrap import Inside, default_python
from veilscore.sandbox.memory_group import make_group, writable_groups
from veilscore.sandbox.policy import SandboxLimits
from veilscore.sandbox.run import run_inside

MIB = 1 << 20
REPORT = "import json\ndef report(x): open('/outputs/got.json', 'w').write(json.dumps(x))\n"
LIMITS = SandboxLimits(memory_bytes=512 * MIB, processes=16, wall_s=20, scratch_bytes=16 * MIB, output_bytes=8 * MIB)


@pytest.fixture(autouse=True)
def _sandbox():
    need_sandbox()


def attack(code, limits=LIMITS, outputs=None):
    """Run code in the sandbox, on a stand-in for private data; returns what it reported and the outcome."""
    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        for name in ("code", "data"):
            (stage / name).mkdir()
        (stage / "code" / "main.py").write_text(REPORT + textwrap.dedent(code))
        (stage / "data" / "data.csv").write_text("turnover\n739201\n")
        inside = Inside(stage / "code", stage / "data", "main.py", default_python())
        outcome = run_inside(inside, outputs or {"got.json": 65536}, limits)
    got = outcome.outputs.get("got.json")
    return (None if got is None else json.loads(got)), outcome


def test_an_attack_would_be_seen():
    got, outcome = attack("report(open('/data/data.csv').read())")
    assert got == "turnover\n739201\n"
    assert outcome.status == "done"


def test_network():
    code = """
        import socket
        found = []
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 17):
            try:
                socket.socket(family, socket.SOCK_STREAM if family < 16 else socket.SOCK_RAW)
                found.append(family)
            except OSError as error:
                assert error.errno in (1, 97), error
        report([found, [line.split()[0] for line in open('/proc/net/dev').readlines()[2:]]])
    """
    got, outcome = attack(code)
    assert got is not None, outcome.stderr
    assert got[0] == []
    assert got[1] in ([], ["lo:"])  # no interface but the loop


def test_other_files_and_identity_keys(tmp_path):
    key = tmp_path / "identity" / "key.pem"
    key.parent.mkdir()
    key.write_text("PRIVATE")
    code = f"""
        import os
        seen = []
        places = ('/etc/passwd', '/etc/shadow', '/root/.ssh', '/home', '/var', '/run', '/sys', '/boot')
        for path in ({str(key)!r}, *places):
            if os.path.exists(path):
                seen.append(path)
        for place, folders, names in os.walk('/', followlinks=False):
            folders[:] = [f for f in folders if os.path.join(place, f) not in ('/proc', '/usr', '/dev')]
            seen += [os.path.join(place, n) for n in names if n == 'key.pem']
        report(seen)
    """
    got, outcome = attack(code)
    assert got == [], outcome.stderr


def test_reading_through_proc_root_and_descriptors():
    code = """
        import os
        found = []
        for pid in os.listdir('/proc'):
            if pid.isdigit():
                for what in ('root/etc/passwd', 'cwd/../etc/passwd'):
                    found += [pid] if os.path.exists(f'/proc/{pid}/{what}') else []
        for n in os.listdir('/proc/self/fd'):
            try:
                if os.path.isdir(f'/proc/self/fd/{n}') or int(n) > 2 and os.fstat(int(n)):
                    found.append(os.readlink(f'/proc/self/fd/{n}'))
            except OSError:
                pass  # the descriptor with which the folder was listed
        report(found)
    """
    got, outcome = attack(code)
    assert got == [], outcome.stderr


def test_processes_of_others_in_proc():
    mark = f"veilscore-mark-{os.getpid()}"
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", mark])
    try:
        code = """
            import os
            report([open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit()])
        """
        got, outcome = attack(code)
        assert got, outcome.stderr
        assert not any(mark in text for text in got)
        assert len(got) <= 3  # bubblewrap's init and the code itself
    finally:
        other.kill()
        other.wait()


def test_environment(monkeypatch):
    monkeypatch.setenv("VEILSCORE_KEY_PASSPHRASE", "correct horse")
    got, _ = attack("import os\nreport([dict(os.environ), open('/proc/1/environ').read()])")
    assert "correct horse" not in json.dumps(got)
    assert set(got[0]) <= {
        "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "PWD", "PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS", "VEILSCORE_DATA", "VEILSCORE_OUTPUTS",
    }  # fmt: skip


def test_fork_bomb():
    code = """
        import os, time
        made = 0
        try:
            while made < 500:
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                made += 1
        except OSError:
            pass
        report(made)
    """
    started = time.monotonic()
    got, outcome = attack(code)
    assert got is not None, outcome.stderr
    assert 1 <= got < LIMITS.processes
    assert time.monotonic() - started < 15  # those that sleep were ended with the rest


def test_recursive_fork_bomb_ends_with_the_clock():
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    _, outcome = attack(code, LIMITS.model_copy(update={"wall_s": 1.0}))
    assert outcome.status in {"wall time", "memory"}
    assert outcome.seconds < 5
    assert outcome.outputs == {}


def test_memory_of_one_process():
    got, outcome = attack("x = bytearray(2 << 30)\nreport(len(x))")
    assert got is None
    assert outcome.status == "failed"
    assert b"MemoryError" in outcome.stderr


def test_memory_of_many_processes():
    code = """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                x = bytearray(os.urandom(1 << 20)) * 200
                time.sleep(20)
        time.sleep(20)
        report('all')
    """
    got, outcome = attack(code)
    assert got is None
    assert outcome.status == "memory"
    assert outcome.seconds < 15


SMALL = LIMITS.model_copy(update={"memory_bytes": 256 * MIB})


@pytest.mark.parametrize(("flags", "file"), [(0x21, None), (0x23, None), (0x40021, None), (0x01, "/dev/zero")])
def test_memory_of_shared_maps(flags, file):
    """Touched, then all but a page unmapped: the kernel keeps every page and no process shows one of them."""
    code = f"""
        import ctypes, os, time
        libc, size, number = ctypes.CDLL(None), ctypes.c_size_t, ctypes.c_int
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
        libc.munmap.argtypes = [ctypes.c_void_p, size]
        fd = os.open({file!r}, os.O_RDWR) if {file!r} else -1
        n, held = 50 << 20, 0
        for _ in range(12):
            place = libc.mmap(None, n, 3, {flags}, fd, 0)
            if place in (None, 2**64 - 1):
                break
            ctypes.memset(place, 1, n)
            libc.munmap(place + 4096, n - 4096)
            held += n
        time.sleep(0.2)
        report(held)
    """
    got, outcome = attack(code, SMALL)
    assert got == 0, outcome.stderr


def test_memory_of_files_without_a_folder():
    code = """
        import os
        held = []
        for make in (lambda: os.memfd_create('x'), lambda: os.open('/dev/shm/x', os.O_RDWR | os.O_CREAT)):
            try:
                held.append(make())
                for _ in range(600):
                    os.write(held[-1], bytes(1 << 20))
            except OSError:
                pass
        report(len(held))
    """
    got, outcome = attack(code, SMALL)
    assert got == 0, outcome.stderr


def test_memory_in_full_sockets():
    """2 MB a socket where the buffer could be enlarged, and hundreds of sockets a process."""
    code = """
        import os, socket, time
        kept, sent = [], 0
        for _ in range(CHILDREN):
            if os.fork() == 0:
                break
        for _ in range(120):
            kept.extend(socket.socketpair())
            for end in kept[-2:]:
                try:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                except OSError:
                    pass
                end.setblocking(False)
                try:
                    while True:
                        sent += end.send(bytes(65536))
                except BlockingIOError:
                    pass
        if CHILDREN:
            time.sleep(10)
        report(sent)
    """
    got, outcome = attack(code.replace("CHILDREN", "0"), SMALL)
    assert 0 < got < 100 * MIB, outcome.stderr
    _, outcome = attack(code.replace("CHILDREN", "5"), SMALL)
    assert outcome.status == "memory"


@pytest.mark.slow
def test_memory_between_two_looks(monkeypatch):
    """The kernel's own group holds where nobody looks; made where this machine lets this user make one."""
    if next(writable_groups(Path("/proc/self")), None) is None:
        pytest.skip("this user may make no control group with a memory controller")
    monkeypatch.setattr(sandbox_run, "_WATCH_S", 3600.0)
    code = "import os, time\nfor _ in range(3): os.fork()\nx = b'x' * (60 << 20)\ntime.sleep(2)\nreport('all')"
    got, outcome = attack(code, SMALL)
    assert got is None
    assert outcome.status == "memory"
    monkeypatch.setattr(sandbox_run, "make_group", lambda _bytes: None)
    assert attack(code, SMALL)[0] == "all"  # without it, 480 MB at once


def test_control_groups_are_made_beside_or_below_the_own_one_alone(tmp_path):
    """Version 2, laid out in a folder: below a group that hands memory on, never higher than beside the own one."""
    mount = tmp_path / "sys"
    for place in ("", "user", "user/app", "user/app/run"):
        (mount / place).mkdir()
        (mount / place / "cgroup.procs").touch()
        (mount / place / "cgroup.subtree_control").write_text("memory pids")
    (mount / "user/app/run/cgroup.subtree_control").unlink()  # the kernel refuses to hand on where processes are
    process = tmp_path / "proc"
    process.mkdir()
    (process / "mountinfo").write_text(f"31 23 0:28 / {mount} rw - cgroup2 cgroup2 rw\n")
    (process / "cgroup").write_text("0::/user/app/run\n")
    assert list(writable_groups(process)) == [mount / "user/app"]
    (process / "cgroup").write_text("0::/../elsewhere\n")
    assert list(writable_groups(process)) == []


def test_a_control_group_is_gone_after_the_run():
    group = make_group(256 * MIB)
    if group is None:
        pytest.skip("this user may make no control group with a memory controller")
    assert not group.exceeded()
    group.close()
    before = set(group.folder.parent.glob("veilscore-sandbox-*"))
    attack("report(1)")
    assert set(group.folder.parent.glob("veilscore-sandbox-*")) <= before


@pytest.mark.parametrize(("folder", "most"), [("/tmp", 16), ("/outputs", 8)])  # noqa: S108 - in the sandbox
def test_disk_fill(folder, most):
    code = f"""
        import os
        written = 0
        try:
            for i in range(400):
                with open('{folder}/fill%d' % i, 'wb') as file:
                    written += file.write(bytes(1 << 20))
        except OSError as error:
            assert error.errno == 28, error
        for i in range(400):
            if os.path.exists('{folder}/fill%d' % i): os.remove('{folder}/fill%d' % i)
        report(written)
    """
    got, outcome = attack(code)
    assert got is not None, outcome.stderr
    assert got <= most * MIB


def test_read_only_places():
    code = """
        import os, sys
        found = []
        places = ('/', '/usr', '/etc', '/data', '/code', '/dev', '/dev/shm', '/proc/sys/kernel', sys.prefix)
        for place in places:
            try:
                open(place + '/x', 'w').close()
                found.append(place)
            except OSError:
                pass
        report(found)
    """
    got, outcome = attack(code)
    assert got == [], outcome.stderr


def test_very_many_empty_files():
    code = "n = 0\nwhile True:\n    open('/tmp/%d' % n, 'w').close()\n    n += 1\n"
    _, outcome = attack(code, LIMITS.model_copy(update={"files": 500}))
    assert outcome.status == "files"


def test_file_size():
    code = """
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            report(open('/tmp/big', 'wb').write(bytes(4 << 20)))
        except OSError as error:
            report(-error.errno)
    """
    got, _ = attack(code, LIMITS.model_copy(update={"file_bytes": MIB}))
    assert got in {-27, MIB}  # EFBIG, or cut at the limit


def test_endless_sleep():
    _, outcome = attack("import time\ntime.sleep(600)", LIMITS.model_copy(update={"wall_s": 0.8}))
    assert outcome.status == "wall time"
    assert outcome.seconds < 5


def test_endless_computing():
    _, outcome = attack("while True: pass", LIMITS.model_copy(update={"cpu_s": 1}))
    assert outcome.status == "failed"
    assert outcome.exit_code in {128 + 9, 128 + 24}


def test_limits_cannot_be_raised():
    code = """
        import resource
        found = []
        for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
            try:
                resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2)
                found.append(kind)
            except (ValueError, OSError):
                pass
        report(found)
    """
    assert attack(code)[0] == []


def test_process_left_behind_is_ended():
    code = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1)
                report('changed after the end')
                time.sleep(60)
            os._exit(0)
        report('first')
    """
    got, outcome = attack(code)
    assert got == "first"
    assert outcome.seconds < 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("symlink", "os.symlink('/data/data.csv', '/outputs/got.json')"),
        ("symlink to the owner's files", "os.symlink('/etc/shadow', '/outputs/got.json')"),
        ("FIFO", "os.mkfifo('/outputs/got.json')"),
        ("directory", "os.mkdir('/outputs/got.json')"),
        ("hard link", "open('/outputs/x', 'w').close(); os.link('/outputs/x', '/outputs/got.json')"),
        ("too large", "open('/outputs/got.json', 'w').write('1' * 70000)"),
        ("sparse", "os.truncate(os.open('/outputs/got.json', os.O_CREAT | os.O_RDWR), 1 << 20)"),
    ],
)
def test_output_that_is_no_plain_file(kind, code):
    _, outcome = attack("import os\n" + code)
    assert outcome.status == "done", outcome.stderr
    assert outcome.outputs == {}
    assert any(text.startswith("got.json") for text in outcome.refused), kind


def test_hard_link_to_private_data():
    got, _ = attack("import os\ntry: os.link('/data/data.csv', '/outputs/got.json')\nexcept OSError: report('refused')")
    assert got == "refused"


def test_undeclared_output():
    code = """
        import os
        for name in ('secret-739201.txt', '.hidden', 'got.json.part'):
            open('/outputs/' + name, 'w').write('739201')
        os.mkdir('/outputs/sub')
        report(1)
    """
    got, outcome = attack(code)
    assert got == 1
    assert set(outcome.outputs) == {"got.json"}
    assert outcome.refused == ("4 undeclared files or folders stay behind",)  # not even their names


CALL = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *args):
        done = getattr(libc, name)(*args)
        return 0 if done >= 0 else ctypes.get_errno()
"""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ptrace", "(16, os.getppid(), 0, 0)"),
        ("mount", "(b'none', b'/tmp', b'tmpfs', 0, 0)"),
        ("umount2", "(b'/data', 2)"),
        ("pivot_root", ""),
        ("chroot", "(b'/tmp',)"),
        ("unshare", "(0x10000000,)"),
        ("setns", "(0, 0)"),
        ("process_vm_readv", "(1, 0, 0, 0, 0, 0)"),
        ("sethostname", "(b'x', 1)"),
        ("add_key", ""),
        ("bpf", ""),
        ("io_uring_setup", ""),
        ("setuid", "(0,)"),
        ("perf_event_open", ""),
        ("userfaultfd", ""),
    ],
)
def test_forbidden_system_call(name, arguments):
    numbers = {"pivot_root": 155, "add_key": 248, "bpf": 321, "io_uring_setup": 425, "perf_event_open": 298}
    numbers["userfaultfd"] = 323
    if name in numbers and os.uname().machine != "x86_64":
        pytest.skip("numbers of calls without a function in libc are those of x86_64")
    asked = f"call('syscall', {numbers[name]}, 0, 0, 0, 0, 0)" if name in numbers else f"call({name!r}, *{arguments})"
    got, outcome = attack(textwrap.dedent(CALL) + f"report({asked})")
    assert got == 1, outcome.stderr  # EPERM


def test_new_namespaces_by_clone():
    code = (
        textwrap.dedent(CALL) + "report([call('syscall', 56, 0x10000000 | 17, 0, 0, 0, 0), call('syscall', 435, 0, 0)])"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of calls are those of x86_64")
    assert attack(code)[0] == [1, 38]  # EPERM; ENOSYS for clone3


def test_no_privileges_inside():
    got, _ = attack("report(open('/proc/self/status').read())")
    lines = dict(line.split(":", 1) for line in got.splitlines())
    assert {lines[key].strip() for key in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
    assert lines["NoNewPrivs"].strip() == "1"
    assert lines["Seccomp"].strip() == "2"
    assert lines["Uid"].split() == ["65534"] * 4


def test_root_is_given_up_outside_too():
    if os.geteuid() != 0:
        pytest.skip("only root has something to give up")
    mark = f"mark-{os.getpid()}-uid.py"
    seen = []

    def look():
        wait_for(lambda: any("Seccomp:\t2" in status and seen.append(status) is None for status in running(mark)))

    thread = threading.Thread(target=look)
    thread.start()
    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        for name in ("code", "data"):
            (stage / name).mkdir()
        (stage / "code" / mark).write_text("import time\ntime.sleep(2)\n")
        run_inside(Inside(stage / "code", stage / "data", mark, default_python()), {}, LIMITS)
    thread.join()
    uids = {int(uid) for status in seen for uid in status.split("Uid:")[1].split()[:4]}
    assert uids
    assert min(uids) > 1_000_000_000  # as the machine sees it: no account


def test_sandbox_ends_with_the_owners_process(tmp_path):
    for name in ("code", "data"):
        (tmp_path / name).mkdir()
    mark = f"mark-{os.getpid()}-sleep.py"
    (tmp_path / "code" / mark).write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "data" / "data.csv").write_text("a\n")
    code = (
        "import sys; from pathlib import Path; from veilscore.sandbox.bubblewrap import Inside, default_python\n"
        "from veilscore.sandbox.policy import SandboxLimits; from veilscore.sandbox.run import run_inside\n"
        "s = Path(sys.argv[1])\n"
        f"run_inside(Inside(s / 'code', s / 'data', {mark!r}, default_python()), {{}}, SandboxLimits())\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    try:
        assert wait_for(lambda: any("Seccomp:\t2" in status for status in running(mark)))
    finally:
        owner.kill()
        owner.wait()
    assert wait_for(lambda: not running(mark))


def running(mark):
    """States of the processes with `mark` among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"\0{mark}\0".encode() in (path / "cmdline").read_bytes():
                found.append((path / "status").read_text())
        except OSError:
            continue
    return found


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


# attacks on the owner's desk


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    return make_homes(tmp_path_factory.mktemp("homes"))


MEAN = """
    import csv, json
    rows = list(csv.DictReader(open('/data/data.csv')))
    values = [float(r['turnover']) for r in rows]
    open('/outputs/mean.json', 'w').write(json.dumps({'value': sum(values) / len(values), 'count': len(values)}))
"""


def test_code_swapped_after_approval(homes, tmp_path):
    bank, tax = homes
    desk, key = submit(bank, tax, write_code(tmp_path / "a", MEAN, name="swap"))
    desk.approve(key)
    code = tax / "sandbox" / "submissions" / key / "code" / "main.py"
    original = code.read_bytes()
    code.chmod(0o644)
    code.write_bytes(original + b"print('more')\n")
    with pytest.raises(SandboxError, match="was changed"):
        desk.run(key)
    code.write_bytes(original)
    (code.parent / "extra.py").write_text("")
    with pytest.raises(SandboxError, match="was changed"):
        desk.run(key)
    (code.parent / "extra.py").unlink()
    assert desk.run(key).status == "done"


def test_manifest_swapped_after_approval(homes, tmp_path):
    bank, tax = homes
    desk, key = submit(bank, tax, write_code(tmp_path / "a", MEAN, name="manifest"))
    desk.approve(key)
    record = tax / "sandbox" / "submissions" / key / "submission.json"
    record.write_text(record.read_text().replace('"max_bytes":65536', '"max_bytes":60000'))
    with pytest.raises(SandboxError, match="was changed"):
        desk.run(key)


def test_data_set_changed_after_approval(homes, tmp_path):
    bank, tax = homes
    desk, key = submit(bank, tax, write_code(tmp_path / "a", MEAN, name="data"))
    desk.approve(key)
    path = Path(desk.config.datasets["main"].path)
    original = path.read_text()
    lines = original.splitlines()
    lines[1] = lines[1].replace(lines[1].split(",")[1], "12345.67")
    try:
        path.write_text("\n".join(lines) + "\n")
        with pytest.raises(SandboxError, match="data set changed"):
            desk.run(key)
    finally:
        path.write_text(original)


def test_policy_loosened_after_approval(homes, tmp_path):
    bank, tax = homes
    desk, key = submit(bank, tax, write_code(tmp_path / "a", MEAN, name="policy"))
    desk.approve(key)
    set_policy(tax, min_group_size=2)
    try:
        with pytest.raises(SandboxError, match=r"sandbox.yaml changed"):
            type(desk)(tax).run(key)
    finally:
        (tax / "sandbox.yaml").unlink()


def test_approval_forged_or_of_another_submission(homes, tmp_path):
    bank, tax = homes
    desk, good = submit(bank, tax, write_code(tmp_path / "a", MEAN, name="good"))
    desk.approve(good)
    _, bad = submit(bank, tax, write_code(tmp_path / "b", MEAN, name="bad"))
    folder = tax / "sandbox" / "submissions"
    text = (folder / good / "approval.json").read_text()
    (folder / bad / "approval.json").write_text(text)
    with pytest.raises(SandboxError, match="another submission"):
        desk.run(bad)
    (folder / bad / "approval.json").write_text(text.replace(good, bad))
    with pytest.raises(IdentityError, match="changed"):
        desk.run(bad)


def test_stdout_carries_nothing_out(homes, tmp_path):
    bank, tax = homes
    code = textwrap.dedent(MEAN) + "import sys\nprint(rows[0])\nprint('leak-739201', file=sys.stderr)\n"
    desk, key = submit(bank, tax, write_code(tmp_path / "a", code, name="stdout"))
    desk.approve(key)
    desk.run(key)
    released = desk.release(key)
    assert b"leak-739201" in (tax / "sandbox" / "submissions" / key / "logs" / "stderr.txt").read_bytes()
    sent = {path.relative_to(released).as_posix(): path.read_bytes() for path in released.rglob("*") if path.is_file()}
    assert set(sent) == {"release.json", "outputs/mean.json"}
    assert not any(b"leak" in content or b"turnover" in content for content in sent.values())


def test_flood_of_stdout_is_cut():
    _, outcome = attack("print('x' * (8 << 20))", LIMITS.model_copy(update={"log_bytes": 1000}))
    assert outcome.status == "done"
    assert len(outcome.stdout) == 1000
