"""Submissions, approvals, the output gate, mock data and the envelope: what passes, what is refused and why."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, require
from sandbox_home import N_ROWS, SECRET, make_homes, need_sandbox, set_policy, submit, write_code
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.data.table import make_table
from veilscore.errors import (
    ConfigError,
    DataError,
    IdentityError,
    RefusedError,
    SandboxError,
    SandboxUnavailableError,
)
from veilscore.keys.identity import create_identity, load_identity
from veilscore.sandbox import bubblewrap, noise, seccomp
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.gate import gate
from veilscore.sandbox.mock_data import group_means, mock_csv
from veilscore.sandbox.policy import SandboxPolicy
from veilscore.sandbox.private_data import read_dataset, table_csv
from veilscore.sandbox.release import read_release
from veilscore.sandbox.submission import (
    Manifest,
    Noise,
    Submission,
    make_submission,
    read_submission,
    write_submission,
)

MEAN = """
    import csv, json
    rows = list(csv.DictReader(open('/data/data.csv')))
    values = [float(r['turnover']) for r in rows]
    open('/outputs/mean.json', 'w').write(json.dumps({'value': sum(values) / len(values), 'count': len(values)}))
"""
POLICY = SandboxPolicy()


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    return make_homes(tmp_path_factory.mktemp("homes"))


def manifest(**outputs):
    return Manifest(name="t", owner="tax", dataset="main", purpose="p", outputs=outputs)


def passed(content, output, policy=POLICY, n_rows=1000):
    return gate({"o": content}, manifest(o=output), policy, n_rows)


# the whole way


def test_from_submission_to_verified_release(homes, tmp_path):
    need_sandbox()
    bank, tax = homes
    desk, key = submit(bank, tax, write_code(tmp_path / "c", MEAN))
    assert desk.entry(key[:8]).status == "waiting"
    with pytest.raises(SandboxError, match="waiting, not approved"):
        desk.run(key)
    assert desk.approve(key).status == "approved"
    with pytest.raises(SandboxError, match="no outputs"):
        desk.release(key)
    outcome = desk.run(key)
    assert (outcome.status, outcome.exit_code) == ("done", 0)
    table = read_dataset(desk.config, "main")
    found = json.loads(desk.report(key)[1]["mean.json"])
    assert found == {"count": N_ROWS, "value": pytest.approx(table.columns["turnover"].mean(), rel=1e-3)}
    folder = desk.release(key)
    submission = desk.entry(key).submission
    assert desk.entry(key).status == "released"
    assert desk.released(key[:8]) == (submission, folder)
    assert read_release(folder, desk.identity.certificate, submission) == desk.report(key)[1]
    other = Submission(submission.manifest, "bank", {**submission.files, "more.py": b""})
    with pytest.raises(SandboxError, match="other code"):
        read_release(folder, desk.identity.certificate, other)
    assert desk.release(key) == folder
    for refused in (desk.run, desk.approve, desk.reject):
        with pytest.raises(SandboxError):
            refused(key)
    (folder / "outputs" / "mean.json").write_bytes(b"{}")
    with pytest.raises(SandboxError, match="changed"):
        read_release(folder, desk.identity.certificate, submission)
    with pytest.raises(IdentityError):
        read_release(folder, load_identity(bank / "identity").certificate, submission)


def test_code_sees_no_ids_and_no_excluded_columns(homes):
    _, tax = homes
    desk = Desk(tax)
    text = table_csv(read_dataset(desk.config, "main")).decode()
    assert text.splitlines()[0] == "turnover,region"
    assert SECRET not in text
    assert "F00001" not in text
    shown = table_csv(read_dataset(desk.config, "main"), show_ids=True).decode()
    assert shown.splitlines()[0] == "id,turnover,region"


def test_run_that_fails_leaves_nothing_and_can_be_repeated(homes, tmp_path):
    need_sandbox()
    bank, tax = homes
    desk, key = submit(bank, tax, write_code(tmp_path / "c", "raise SystemExit(3)", name="fails"))
    desk.approve(key)
    for _ in range(2):
        assert desk.run(key).exit_code == 3
        assert desk.entry(key).status == "failed"
    with pytest.raises(SandboxError, match="no outputs"):
        desk.release(key)
    assert desk.reject(key, "does not work").status == "refused"
    with pytest.raises(SandboxError, match="refused, not approved"):
        desk.run(key)


def test_output_under_the_minimum_group_does_not_leave(homes, tmp_path):
    need_sandbox()
    bank, tax = homes
    code = "open('/outputs/mean.json', 'w').write('{\"value\": 1, \"count\": 3}')"
    desk, key = submit(bank, tax, write_code(tmp_path / "c", code, name="small"))
    desk.approve(key)
    assert desk.run(key).status == "done"
    record, outputs = desk.report(key)
    assert not record["passed"]
    assert outputs == {}
    assert "fewer than 10 firms" in record["notes"][0]


def test_command_line_from_mock_data_to_release(homes, tmp_path):
    need_sandbox()
    bank, tax = homes
    folder = write_code(tmp_path / "c", MEAN, name="cli")

    def run(*words, exit_code=0):
        result = CliRunner().invoke(app, ["sandbox", *map(str, words)])
        assert result.exit_code == exit_code, (result.output, result.exception)
        return result.output

    mock = tmp_path / "mock.csv"
    run("mock-data", "main", "--out", mock, "--rows", 50, "--seed", 1, "--home", tax)
    assert len(mock.read_text().splitlines()) == 51
    submitted = run("submit", folder, "--to", tax / "sandbox" / "inbox", "--home", bank)
    key = submitted.split()[1]
    assert "cli" in run("show", "--home", tax)
    assert "DictReader" in run("show", key[:10], "--home", tax)
    run("approve", key[:10], "--home", tax, "--reason", "read it")
    assert "done" in run("run", key[:10], "--home", tax)
    assert "mean.json" in run("outputs", key[:10], "--home", tax)
    run("release", key[:10], "--home", tax)
    other = run("submit", write_code(tmp_path / "d", MEAN, name="no"), "--to", tax / "sandbox/inbox", "--home", bank)
    run("show", "--home", tax)
    assert "refused" in run("reject", other.split()[1], "--home", tax)


# submissions


def test_digest_covers_every_part(tmp_path):
    identity = create_identity(tmp_path / "id", "bank", "bank", passphrase=lambda: None)
    first = make_submission(write_code(tmp_path / "a", MEAN), identity)
    again = make_submission(write_code(tmp_path / "b", MEAN), identity)
    assert first.sha256 == again.sha256
    changed = [
        make_submission(write_code(tmp_path / "c", MEAN + "\n    pass"), identity),
        make_submission(write_code(tmp_path / "d", MEAN, purpose="other"), identity),
        Submission(first.manifest, "other", first.files),
        Submission(first.manifest, "bank", {**first.files, "b.py": b""}),
    ]
    assert len({first.sha256, *(one.sha256 for one in changed)}) == 5
    with pytest.raises(IdentityError):
        Submission(changed[0].manifest, "bank", changed[0].files, first.signature).verify(identity.certificate)


@pytest.mark.parametrize("kind", ["symlink", "folder link", "fifo", "name", "large", "many"])
def test_submission_with_files_that_are_no_code(tmp_path, kind):
    identity = create_identity(tmp_path / "id", "bank", "bank", passphrase=lambda: None)
    folder = write_code(tmp_path / "c", MEAN)
    if kind == "symlink":
        (folder / "x.py").symlink_to("/etc/passwd")
    elif kind == "folder link":
        (folder / "x").symlink_to("/etc")
    elif kind == "fifo":
        os.mkfifo(folder / "x.py")
    elif kind == "name":
        (folder / "a\nb.py").write_text("")
    elif kind == "large":
        (folder / "x.bin").write_bytes(bytes(6 << 20))
    else:
        for i in range(201):
            (folder / f"m{i}.py").write_text("")
    with pytest.raises(SandboxError):
        make_submission(folder, identity)


@pytest.mark.parametrize(
    "change",
    [
        {"entry": "other.py"},
        {"outputs": {"../x": {"kind": "number"}}},
        {"outputs": {}},
        {"outputs": {"t.csv": {"kind": "table"}}},
        {"outputs": {"t.csv": {"kind": "table", "columns": {"a": "number"}}}},
        {"outputs": {"t.json": {"kind": "number", "noise": {"epsilon": 1, "lower": 1, "upper": 0}}}},
        {"outputs": {"t.json": {"kind": "number", "noise": {"epsilon": 1, "lower": 0, "upper": 1, "sensitivity": 2}}}},
        {"shell": "run.sh"},
    ],
)
def test_manifest_that_is_wrong(tmp_path, change):
    identity = create_identity(tmp_path / "id", "bank", "bank", passphrase=lambda: None)
    folder = write_code(tmp_path / "c", MEAN)
    content = yaml.safe_load((folder / "submission.yaml").read_text()) | change
    (folder / "submission.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError):
        make_submission(folder, identity)


def test_inbox_takes_only_what_members_signed_for_this_owner(homes, tmp_path):
    bank, tax = homes
    stranger = create_identity(tmp_path / "id", "bank", "bank", passphrase=lambda: None)
    desk = Desk(tax)
    write_submission(make_submission(write_code(tmp_path / "a", MEAN, name="stranger"), stranger), desk.inbox)
    own = load_identity(bank / "identity")
    for name, change in (("owner", {"owner": "registry"}), ("data", {"dataset": "none"})):
        write_submission(make_submission(write_code(tmp_path / name, MEAN, **change), own), desk.inbox)
    folder = write_submission(make_submission(write_code(tmp_path / "e", MEAN, name="edited"), own), desk.inbox)
    (folder / "code" / "more.py").write_text("")
    (desk.inbox / "junk").mkdir()
    problems = desk.receive()
    assert len(problems) == 5  # and none of them keeps the others from being looked at
    assert sum("signature" in text for text in problems) == 1
    set_policy(tax, purposes=["fraud"])
    try:
        with pytest.raises(RefusedError, match="purpose"):
            Desk(tax).accept(make_submission(write_code(tmp_path / "p", MEAN, name="purpose"), own))
    finally:
        (tax / "sandbox.yaml").unlink()
        shutil.rmtree(desk.inbox)


def test_a_table_leaves_in_the_order_of_columns_that_was_declared(tmp_path):
    bank, tax = make_homes(tmp_path)
    documented = yaml.safe_load(re.search(r"table\.csv:  (\{.*\})", (ROOT / "docs" / "sandbox.md").read_text())[1])
    assert list(documented["columns"]) == ["region", "n", "mean"]  # not the alphabet's order
    desk, key = submit(bank, tax, write_code(tmp_path / "code", "pass", {"table.csv": documented}))
    kept = desk.entry(key).submission.manifest
    assert list(kept.outputs["table.csv"].columns.items()) == [("region", "text"), ("n", "count"), ("mean", "number")]
    table = b"region,n,mean\nnorth,120,1.5\nsouth,90,2.5\n"
    assert gate({"table.csv": table}, kept, POLICY, 1000).files["table.csv"] == table
    other = {"kind": "table", "columns": [["n", "count"], ["n", "text"]]}
    with pytest.raises(ConfigError, match="a column stands twice"):
        make_submission(write_code(tmp_path / "twice", "pass", {"t.csv": other}), load_identity(bank / "identity"))


def test_frozen_submission_reads_back(tmp_path):
    identity = create_identity(tmp_path / "id", "bank", "bank", passphrase=lambda: None)
    folder = write_code(tmp_path / "c", MEAN)
    (folder / "lib").mkdir()
    (folder / "lib" / "__init__.py").write_text("")
    submission = make_submission(folder, identity)
    back = read_submission(write_submission(submission, tmp_path))
    assert (back.sha256, dict(back.files)) == (submission.sha256, dict(submission.files))
    back.verify(identity.certificate)


# no sandbox, no run


def test_without_bubblewrap_it_refuses_with_the_install_line(homes, tmp_path, monkeypatch):
    bank, tax = homes
    desk, key = submit(bank, tax, write_code(tmp_path / "c", MEAN, name="bare"))
    desk.approve(key)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailableError, match="apt-get install"):
        desk.run(key)
    assert desk.entry(key).status == "approved"  # nothing ran


def test_bubblewrap_without_namespaces_is_a_reason_of_its_own(tmp_path, monkeypatch):
    need_sandbox()
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailableError, match="user namespaces"):
        bubblewrap.check_host()


def test_without_libseccomp_it_refuses_with_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    seccomp.filter_program.cache_clear()
    with pytest.raises(SandboxUnavailableError, match="libseccomp2"):
        seccomp.filter_program()


def test_home_inside_what_the_code_sees_is_refused():
    inside = bubblewrap.Inside(Path("/c"), Path("/d"), "main.py", bubblewrap.default_python())
    with pytest.raises(ConfigError, match="move the home"):
        bubblewrap.check_hidden(Path("/usr/local/tax"), inside)


def test_plain_user_can_run_it(tmp_path_factory):
    """As root, the same run by a plain user with the system's Python."""
    need_sandbox()
    system = Path("/usr/bin/python3")
    require(os.geteuid() == 0 and system.exists(), "needs root, to become a plain user, and /usr/bin/python3")
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        stage = Path(temporary)
        stage.chmod(0o755)
        for name in ("code", "data"):
            (stage / name).mkdir()
        (stage / "code" / "main.py").write_text("import os\nopen('/outputs/a', 'w').write(str(os.getuid()))\n")
        (stage / "data" / "data.csv").write_text("a\n1\n")
        code = (
            "import os, sys; from pathlib import Path\n"
            "from veilscore.sandbox.bubblewrap import Inside; from veilscore.sandbox.policy import SandboxLimits\n"
            "from veilscore.sandbox.run import run_inside; from veilscore.sandbox.seccomp import filter_program\n"
            "filter_program(); os.setgroups([]); os.setgid(65534); os.setuid(65534); s = Path(sys.argv[1])\n"
            "inside = Inside(s / 'code', s / 'data', 'main.py', Path('/usr/bin/python3'))\n"
            "o = run_inside(inside, {'a': 9}, SandboxLimits())\n"
            "print(o.status, o.outputs['a'].decode())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(stage)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.stdout.split() == ["done", "65534"], done.stderr


# the gate


def test_numbers_are_rounded_and_written_anew():
    found = passed(b' {"count":  50, "value": 123456.789e0}', {"kind": "number"})
    assert found.files["o"] == b'{"count":50,"value":123500}'


@pytest.mark.parametrize(
    "content",
    [
        b'{"value": 1, "count": 9}',
        b'{"value": 1, "count": 1001}',
        b'{"value": 1, "count": 50.0}',
        b'{"value": 1, "count": true}',
        b'{"value": 1}',
        b'{"value": 1, "count": 50, "more": 1}',
        b'{"value": "1", "count": 50}',
        b'{"value": NaN, "count": 50}',
        b'{"value": Infinity, "count": 50}',
        b'{"value": 1e999, "count": 50}',
        b'{"value": [1], "count": 50}',
        b"[1, 50]",
        b"not JSON",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"value": 1' + b"0" * 5000 + b', "count": 50}',
    ],
)
def test_number_that_may_not_leave(content):
    with pytest.raises(SandboxError, match="nothing leaves"):
        passed(content, {"kind": "number"})


def test_json_of_numbers():
    output = {"kind": "json", "keys": ("weights", "offset")}
    found = passed(b'{"weights": [[1.23456, 2]], "offset": -0.0, "count": 20}', output)
    assert json.loads(found.files["o"]) == {"count": 20, "offset": 0, "weights": [[1.235, 2]]}
    for content in (
        b'{"weights": ["a"], "offset": 1, "count": 20}',
        b'{"weights": {"secret": 1}, "offset": 1, "count": 20}',
        b'{"weights": [[[[1]]]], "offset": 1, "count": 20}',
        b'{"weights": [' + b"1," * 1000 + b'1], "offset": 1, "count": 20}',
        b'{"weights": [], "offset": 1, "count": 2}',
    ):
        with pytest.raises(SandboxError):
            passed(content, output)


def test_table_rows_under_the_minimum_group_are_withheld():
    output = {"kind": "table", "columns": {"region": "text", "n": "count", "mean": "number"}}
    found = passed(b"region,n,mean\nsouth,146,2.00001\nrare,4,9\nnorth,150,1.23456\n", output)
    assert found.files["o"] == b"region,n,mean\nnorth,150,1.235\nsouth,146,2\n"
    assert found.notes == ("o: 1 rows under the minimum group withheld",)
    for content in (
        b"region,n\nnorth,150\n",
        b"region,n,mean\nnorth,150\n",
        b"region,n,mean\n" + b"x" * 41 + b",150,1\n",
        b"region,n,mean\nno\x07rth,150,1\n",
        b"region,n,mean\nnorth,1e3,1\n",
        b"region,n,mean\nnorth,150,nan\n",
        b"region,n,mean\nnorth,150,=1+1\n",
        b"region,n,mean\n" + b"north,150,1\n" * 400,
    ):
        with pytest.raises(SandboxError):
            passed(content, output)


def test_artefacts_leave_only_where_the_owner_allows_them():
    output = {"kind": "artefact", "max_bytes": 100}
    with pytest.raises(SandboxError, match="artefacts"):
        passed(b"model", output)
    assert passed(b"model", output, SandboxPolicy(allow_artefacts=True)).files["o"] == b"model"
    with pytest.raises(SandboxError, match="larger"):
        passed(b"x" * 101, output, SandboxPolicy(allow_artefacts=True))


def test_noise_has_the_scale_that_was_declared():
    require(importlib.util.find_spec("opendp"), "OpenDP (extra dp) is not installed")
    rule = Noise(epsilon=0.5, lower=0, upper=10, sensitivity=1)
    drawn = np.array([noise.laplace(1e9, rule) for _ in range(4000)])
    assert abs(np.median(drawn) - 10) < 0.3  # cut to the upper bound first
    assert abs(np.abs(drawn - 10).mean() - 2) < 0.2  # mean absolute deviation of Laplace is its scale
    output = {"kind": "number", "noise": {"epsilon": 0.5, "lower": 0, "upper": 10}}
    found = passed(b'{"value": 4, "count": 50}', output, SandboxPolicy(require_noise=True))
    assert set(json.loads(found.files["o"])) == {"value"}  # the count has no noise and stays
    assert found.epsilon == 0.5
    with pytest.raises(SandboxError, match="epsilon"):
        passed(b"", output, SandboxPolicy(max_epsilon=0.1))
    with pytest.raises(SandboxError, match="require_noise"):
        passed(b"", {"kind": "number"}, SandboxPolicy(require_noise=True))


def test_noise_without_opendp_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opendp", None)
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    with pytest.raises(SandboxError, match=r"veilscore\[dp\]"):
        noise.laplace(1.0, Noise(epsilon=1, lower=0, upper=1))


# mock data


def test_mock_data_shows_nothing_of_fewer_than_k_rows():
    rng = np.random.default_rng(2)
    n, k = 500, 10
    turnover = rng.lognormal(10, 1, n)
    turnover[7] = 9.87e15  # one firm that everybody knows
    region = np.array(["north"] * 300 + ["south"] * 190 + ["Atlantis"] * 10, dtype=object)
    region[-4:] = "Eldorado"
    label = np.zeros(n)
    label[:100] = 1
    table = make_table([f"F{i}" for i in range(n)], {"t": turnover, "r": region}, label, normaliser="text")
    rows = list(csv.DictReader(io.StringIO(mock_csv(table, 2000, k, rng, show_ids=True).decode())))
    assert set(rows[0]) == {"id", "t", "r", "label"}
    drawn = np.array([float(row["t"]) for row in rows])
    ordered = np.sort(turnover)
    assert ordered[k - 1] * 0.99 <= drawn.min()
    assert drawn.max() <= ordered[-k] * 1.01
    assert {row["r"] for row in rows} == {"north", "south", "OTHER"}
    assert not {row["id"] for row in rows} & {f"F{i}" for i in range(n)}
    assert abs(np.mean([float(row["label"]) for row in rows]) - 0.2) < 0.05
    assert not set(drawn) & set(turnover)


def test_mock_marginals_move_little_with_one_firm():
    values = np.sort(np.random.default_rng(3).normal(size=200))
    other = values.copy()
    other[-1] = 1e12
    assert np.array_equal(group_means(values, 10), group_means(np.sort(other), 10))


def test_mock_data_of_too_few_rows_is_refused():
    table = make_table(["a", "b"], {"t": [1.0, 2.0]}, normaliser="text")
    with pytest.raises(DataError, match="too few"):
        mock_csv(table, 10, 10, np.random.default_rng(0))


# what a start costs


def test_start_is_measured_by_a_benchmark():
    need_sandbox()
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "sandbox_start.py")],
        env={**os.environ, "PYTHONPATH": path, "VEILSCORE_RUNS": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["name"], result["unit"], result["bound"]) == ("sandbox_start", "ms", 100)
    assert result["value"] > 0
