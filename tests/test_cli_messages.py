"""What the command prints: every text as it is, on any terminal, whole words, and no traceback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import subprocess
import sys
import time

import pytest
from fabric_network import FEDERATION, make_fabric, running
from rich.console import Console
from trial_federation import SCORECARD, make_homes
from typer.testing import CliRunner

from veilscore import cli
from veilscore.cli import NOUNS, display, load
from veilscore.cli.display import coloured, console, styled, table
from veilscore.cli.evidence import _row
from veilscore.cli.node import _until_up
from veilscore.cli.planning import show_proposal
from veilscore.cli.progress import JobProgress, show_job
from veilscore.cli.score import shown_points
from veilscore.errors import ConfigError, IdentityError, JobError, VeilscoreError
from veilscore.evidence.job_ledger import Ledger
from veilscore.node import processes
from veilscore.node.founding import found_federation
from veilscore.terms.federation import load_federation
from veilscore.terms.job import parse_job
from veilscore.v1 import control_pb2

JOB_ID = "kz-corporate-1a2b3c4d-0123456789abcdef"
# with these arguments they list what there is, or make a folder of that name
DOES_SOMETHING = (
    (["example"], ()),
    (["explain"], ()),
    (["simulate"], ("[/bold]",)),
    (["dataset", "describe"], ("file",)),
    (["door", "openapi"], ()),
    (["section", "fields"], ()),
)
NONSENSE = ("[/bold]", "[red]\u00e4\u2026", "\udcff", ":warning:")


@contextlib.contextmanager
def terminal():
    """Standard output and error of 80 columns that know ASCII only, as LANG=C and PYTHONIOENCODING=ascii give them."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [])
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", "dumb")
        for name in ("VEILSCORE_HOME", "VEILSCORE_DEBUG"):
            patch.delenv(name, raising=False)
        yield raw


def command(*words):
    """Run `main` as a process would; return its exit code and what it printed. Any other error is a traceback."""
    with terminal() as raw:
        sys.argv[:] = ["veilscore", *words]
        try:
            cli.main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        return code, raw.getvalue().decode("ascii")


def every_command():
    for word in NOUNS:
        found = load(word)
        yield from ([word, verb] if verb else [word] for verb in getattr(found, "commands", {"": None}))


QUICK = (NONSENSE[:1], NONSENSE, ("--home", "[/red]\u00e4"))
EVERY = (
    *QUICK, ("--quux",), ("[/bold]", "--quux"), NONSENSE[:2], ("file",), (), ("--home", "absent"), ("--home", "file"),
    ("--federation", "absent"), ("--federation", "file"), ("--federation", "[/red]\u00e4"),
)  # fmt: skip


@pytest.mark.parametrize("wrong", [QUICK, pytest.param(EVERY, marks=pytest.mark.slow)], ids=["quick", "every"])
def test_every_command_with_help_and_with_nonsense(monkeypatch, tmp_path, wrong):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("neither a home nor a job")
    bad = []
    for words in every_command():
        code, text = command(*words, "--help")
        bad += [words] * (code != 0 or "Usage" not in text or max(map(len, text.splitlines())) > 80)
        for arguments in wrong:
            if (words, arguments) in DOES_SOMETHING:
                continue
            code, text = command(*words, *arguments)
            bad += [(words, arguments, text)] * (code == 0 or not text.strip() or "Traceback" in text)
    assert bad == []


def test_text_is_printed_as_it_is():
    error = "[export] of /srv/[/bold]/:warning: failed \\"
    with terminal() as raw:
        display.show_error("JobError", error)
        out = console()
        out.print(error)
        out.print(styled("[bold]{}[/bold] and {}", "[red]", error))
        out.print(table("Title [x]", ("a [y]", "b"), [("[/red]", error), ("done: [z]", "")]))
        text = raw.getvalue().decode()
    assert text.count(error) == 4
    assert "[red] and [export]" in text
    assert all(word in text for word in ("Title [x]", "a [y]", "[/red]", "done: [z]"))


def test_an_error_is_a_panel_on_a_terminal(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(display, "console", lambda **_: Console(file=file, width=40, force_terminal=True, markup=False))
    display.show_error("JobError", "a word[/red] " + "x" * 60)
    assert "JobError" in file.getvalue()
    assert "word[/red]" in file.getvalue()
    assert len(file.getvalue().splitlines()) == 5


def test_a_process_on_an_ascii_terminal(tmp_path):
    environment = {**os.environ, "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    environment.pop("COLUMNS", None)
    path = tmp_path / "\u00b1\u4f01\u4e1a"
    words = [sys.executable, "-m", "veilscore", "job", "list", "--home", str(path)]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.decode("ascii").startswith("ConfigError: ")
    assert "+-\\u4f01\\u4e1a is no node's home" in done.stderr.decode("ascii")
    assert done.stderr.count(b"\n") == 1  # whole, where no terminal is that has an edge


def printed(renderable, width):
    out = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    out.print(renderable)
    return out.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_words_of_a_table_stay_whole(width):
    reason = "the firm's consent is missing: send its token with the request, or import it at the holder " * 3
    rows = [(JOB_ID, "train_scorecard", "failed", reason), ("b", "", "done", "")]
    text = printed(table("Jobs of all", ("job", "task", "status", "reason"), rows), width)
    assert JOB_ID in text
    assert "train_scorecard" in text
    assert text.startswith("Jobs of all\n")
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) < 25
    assert sorted(text.replace("│", " ").replace("┃", " ").split()).count("consent") == 3
    assert ("│" in text) == (width == 200)
    assert printed(table("Jobs", ("job", "task"), []), width)


def test_a_failed_attempt_is_told_once_below_the_table():
    info = control_pb2.JobInfo(job_id=JOB_ID, task="train_boosting", status="failed", error="step train failed at tax")
    reason = "the noise [of this] job drowns its data; " * 12
    for attempt in (1, 2):
        step = info.steps.add(step="evaluate", attempt=attempt, status="failed", seconds=1234.5)
        for party in ("bank", "registry", "tax"):
            step.party_status[party] = "done" if party == "bank" else f"failed: {reason}"
            step.party_done[party].CopyFrom(control_pb2.StepDone(seconds=1.2, bytes_sent=123456789))
    out = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
    show_job(out, info)
    lines = out.file.getvalue().splitlines()
    assert len(lines) < 55
    assert "123.46" in out.file.getvalue()
    assert sum("try 2, tax: failed: the noise [of this]" in text for text in lines) == 1


def event(party, done, total=20, status=""):
    return control_pb2.JobEvent(step="boost", party=party, text="trees", done=done, total=total, status=status)


def test_progress_is_a_tree_a_line_with_seconds_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
    with JobProgress(out) as progress:
        for tree in (1, 2, 3):
            for party in ("bank", "tax"):
                progress.show(event(party, tree))
            now[0] += 8
        progress.show(event("bank", 20, status="done"))
    assert out.file.getvalue().splitlines() == [
        "boost: trees 1 of 20",
        "boost: trees 2 of 20, about 144 s left",
        "boost: trees 3 of 20, about 136 s left",
        "boost bank: done trees",
    ]


def test_bars_fit_a_terminal_of_80_columns():
    out = Console(file=io.StringIO(), width=80, force_terminal=True, markup=False)
    with JobProgress(out) as progress:
        for tree in (1, 2):
            progress.show(event("coordinator", tree))
    assert "trees 2 of 20" in out.file.getvalue()


@pytest.mark.parametrize(
    ("score", "shown"), [(534.53, "534.5"), (534.99, "534.9"), (535.0, "535.0"), (-0.05, "-0.1"), (600, "600.0")]
)
def test_points_lie_in_the_band_of_the_exact_score(score, shown):
    assert shown_points(score) == shown
    assert float(shown) <= score


def test_up_says_what_it_waits_for_and_how_to_wait_longer(tmp_path, monkeypatch, capsys):
    found_federation(tmp_path / "f [x]", {"bank": "bank"})
    home = tmp_path / "f [x]" / "bank"
    monkeypatch.setattr("veilscore.cli.node._SAY_EVERY_S", 0.3)
    with pytest.raises(JobError, match=r"after 0\.9 s: the process of .*f \[x\]/bank is loading.*--wait SECONDS"):
        asyncio.run(_until_up({"bank": home}, {}, 0.9))
    assert "of 0.9 s: the process of" in capsys.readouterr().err
    monkeypatch.setattr(processes, "running_pid", lambda _: 4711)
    (home / "log").mkdir()
    (home / "log" / "console.log").write_text("reading the log\n")
    assert processes.waits_for(home).endswith("runs and does not answer yet: reading the log")
    with pytest.raises(JobError, match=r"`veilscore node stop '.*f \[x\]/bank'`"):
        processes.spawn(home)  # to be pasted into a shell


def run(*words):
    result = CliRunner().invoke(cli.app, [str(w) for w in words], env={"COLUMNS": "200", "TERM": "dumb"})
    if isinstance(result.exception, VeilscoreError):
        raise result.exception
    return result.output


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_init_looks_for_the_columns_before_it_makes_anything(tmp_path, suffix):
    form = ("--parquet",) if suffix == "parquet" else ()
    run("simulate", tmp_path / "data", "--firms", 200, *form)
    found = ("init", tmp_path / "t", "--data", tmp_path / "data", "--party", "bank:bank", "--party", "court:holder")
    for option, name in (("--label-column", "bad_flag"), ("--id-column", "firm")):
        with pytest.raises(ConfigError, match=rf"bank\.{suffix} has no column '{name}' .*{option}"):
            run(*found, option, name)
    assert not (tmp_path / "t").exists()
    assert "no data set for court" in run(*found)


def test_a_draft_keeps_the_name_and_the_folder_has_to_be_there(tmp_path):
    pems = {}
    for name, role in {"bank": "bank", "hub": "coordinator", "tax": "holder"}.items():
        run("identity", "create", tmp_path / name, "--name", name, "--role", role)
        pems[name] = tmp_path / name / "identity" / "certificate.pem"
    with pytest.raises(ConfigError, match="absent does not exist; make it"):
        run("federation", "add", tmp_path / "absent" / "federation.yaml", pems["bank"], "--address", "h:1")
    path = tmp_path / "federation.yaml"
    run("federation", "add", path, pems["bank"], "--address", "h:1", "--name", "kz")
    run("federation", "add", path, pems["hub"], "--address", "h:2")
    assert load_federation(path).name == "kz"
    with pytest.raises(ConfigError, match="is of federation kz, not other"):
        run("federation", "add", path, pems["tax"], "--address", "h:3", "--name", "other")
    # each member makes the file in a folder of its own: without --name it is called alike everywhere
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        for number, name in enumerate(("bank", "hub")):
            run("federation", "add", tmp_path / place / "federation.yaml", pems[name], "--address", f"h:{number + 1}")
    assert load_federation(tmp_path / "one" / "federation.yaml").name == "federation"


def test_members_that_call_their_federation_differently_do_not_talk():
    renamed = FEDERATION.model_copy(update={"name": "other"})

    async def scenario():
        bank, tax = make_fabric("bank"), make_fabric("tax", federation=renamed)
        async with running(bank, tax):
            await bank.call("tax", "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=5)

    with pytest.raises(IdentityError, match=r"bank calls its federation .*put the same `name` into federation\.yaml"):
        asyncio.run(scenario())


def test_coloured_words():
    assert coloured("failed: [x]").plain == "failed: [x]"
    assert coloured("failed: x").style == "red"


def test_the_inbox_says_what_a_waiting_job_asks_learns_and_spends(tmp_path):
    make_homes(tmp_path)
    job = parse_job(SCORECARD + "parameters: {max_bin: 5}\n")
    out = Console(file=io.StringIO(), width=80, markup=False, highlight=False)
    show_proposal(out, job, tmp_path / "tax")
    text = out.file.getvalue()
    for said in ("toy: train_scorecard of bank, purpose: credit", "max_bin", "Who learns what", "Together mu 0."):
        assert said in text
    assert re.search(r"tax: its account with bank has mu \S+ left", text.replace("\n", " "))


def test_the_log_says_of_a_release_for_whom_of_what_and_of_how_many_firms(tmp_path):
    jobs = Ledger(tmp_path)
    asked = parse_job(SCORECARD)
    job_id = f"toy-1a2b3c4d-{asked.sha256.hex()[:16]}"
    jobs.add(job_id, asked, "accepted", "")
    entry = {"kind": "job", "job_id": job_id, "scores": {"count": 120}, "outcome": "done", "model": "ab" * 32}
    *_, job, details = _row(3, entry, jobs)
    assert (job, details) == (job_id, "outcome done, bank bank, train_scorecard, purpose credit, 120 firms")
    online = {"kind": "share_opened", "bank": "bank", "model": "ab" * 32, "time_ms": 0}
    assert _row(4, online, jobs)[-1] == "bank bank, model abababababab, 1 firm"
