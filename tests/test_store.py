"""Files of a job: whole or not at all, private, and clear about full disks."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from veilscore.errors import StateError
from veilscore.files.store import JobStore, write_atomically


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "jobs" / "j")


def test_round_trip(store):
    codes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    store.save_arrays("rows", codes=codes, weight=np.ones(2))
    loaded = store.load_arrays("rows")
    assert loaded["codes"].dtype == np.uint8
    np.testing.assert_array_equal(loaded["codes"], codes)
    store.save_json("fit", {"b": [1.5, None], "a": "税"})
    assert store.load_json("fit") == {"a": "税", "b": [1.5, None]}
    assert store.has("rows")
    assert store.names() == ("fit", "rows")
    store.delete("rows")
    assert not store.has("rows")
    store.delete("rows")


def test_modes(store):
    path = store.save_json("x", 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 200, "a\0"])
def test_bad_names(store, name):
    with pytest.raises(StateError, match="not a name"):
        store.save_json(name, 1)


def test_nothing_executable_is_stored_or_loaded(store):
    with pytest.raises(StateError, match="object dtype"):
        store.save_arrays("x", a=np.array([object()]))
    np.savez(store.path / "evil.npz", a=np.array([{}], dtype=object))
    with pytest.raises(StateError, match="damaged"):
        store.load_arrays("evil")
    with pytest.raises(StateError, match="cannot be stored as JSON"):
        store.save_json("x", {"a": float("nan")})


def test_missing_and_damaged(store):
    with pytest.raises(StateError, match="nothing saved as 'rows'"):
        store.load_arrays("rows")
    with pytest.raises(StateError, match="nothing saved as 'rows'"):
        store.load_json("rows")
    path = store.save_arrays("rows", a=np.arange(1000))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StateError, match=r"rows\.npz"):
        store.load_arrays("rows")
    (store.path / "fit.json").write_text("{")
    with pytest.raises(StateError, match="damaged"):
        store.load_json("fit")


def test_failed_write_keeps_the_old_file(store):
    path = store.save_json("fit", "old")

    def fail(_file):
        raise OSError(28, "No space left on device")

    with pytest.raises(StateError, match=r"disk full.*resume"):
        write_atomically(path, fail)
    assert store.load_json("fit") == "old"
    assert [p.name for p in store.path.iterdir()] == ["fit.json"]


_FULL = """
import numpy as np, resource, signal, sys
from veilscore.errors import StateError
from veilscore.files.store import JobStore
store = JobStore(sys.argv[1])
store.save_arrays("rows", a=np.zeros(10))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.save_arrays("rows", a=np.zeros(1_000_000))
except StateError as error:
    print(error.message)
print(store.load_arrays("rows")["a"].size)
"""


def test_full_disk_in_a_real_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "j")], capture_output=True, text=True, timeout=60, check=True
    )
    message, size = done.stdout.splitlines()
    assert "disk full" in message
    assert "rows.npz" in message
    assert size == "10"
    assert sorted(p.name for p in (tmp_path / "j").iterdir()) == ["rows.npz"]


def test_no_permission(tmp_path):
    if os.geteuid() == 0:  # root may write anywhere; a file in place of the folder stops also root
        (tmp_path / "file").write_text("")
        with pytest.raises(StateError, match="cannot make"):
            JobStore(tmp_path / "file" / "j")
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(StateError, match="no permission"):
            JobStore(tmp_path / "j")


def test_repr_is_a_path_only(store):
    store.save_json("x", "secret")
    assert "secret" not in repr(store)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)  # this process's own limit is untouched
    assert signal.getsignal(signal.SIGXFSZ) is not None
