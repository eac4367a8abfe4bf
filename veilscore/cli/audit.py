"""`veilscore audit` runs a bank's steps again, exports and deletes openings; no command here calls another node."""

import shutil
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer

from veilscore.audit.jobs import JobAudit, job_of
from veilscore.audit.replay import GOOD, Finding
from veilscore.cli.display import console, table
from veilscore.cli.evidence import KeysOption, public_keys
from veilscore.cli.files import read_bytes
from veilscore.cli.homes import HomeOption, find_home
from veilscore.errors import ConfigError, EvidenceError
from veilscore.evidence.documents import Keys
from veilscore.evidence.kept_receipts import kept_id
from veilscore.evidence.log import FOLDER, LOG_FILE, scan
from veilscore.evidence.online_archive import DECISIONS, KEYS, MODELS, POOLS
from veilscore.evidence.online_archive import FOLDER as ONLINE_FOLDER
from veilscore.evidence.online_opening import PartOpened, PoolRecord, record_of
from veilscore.evidence.online_rows import OpenedParts
from veilscore.evidence.opening import AUDIT, DATASET, read_opening
from veilscore.evidence.witness import Witnesses
from veilscore.files.digests import file_digest
from veilscore.terms.job import JOB_ID
from veilscore.terms.node_config import load_node_config

app = typer.Typer(
    invoke_without_command=True,
    epilog="Example: veilscore audit --bank bundle --keys federation.yaml --log /srv/tax --sample 10",
)
R = TypeVar("R")
JobArgument = Annotated[str, typer.Argument(help="The job's id or name (the newest of it), or: online.", metavar="JOB")]
ONLINE = "online"  # in place of a job or a step: scores released online


@app.callback()
def audit(
    context: typer.Context,
    *,
    bank: Annotated[
        Path | None, typer.Option("--bank", help="The bank's home or a bundle of it; default $VEILSCORE_HOME, or here.")
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option("--receipt", help="Receipts of jobs; default those that the bank keeps."),
    ] = None,
    logs: Annotated[
        list[Path] | None,
        typer.Option("--log", help="Logs of other parties (homes or log.jsonl): they show failed attempts too."),
    ] = None,
    keys: KeysOption = None,
    job: Annotated[str | None, typer.Option("--job", help="Only this job.")] = None,
    step: Annotated[str | None, typer.Option("--step", help="Only this step; online: only online scores.")] = None,
    sample: Annotated[int, typer.Option("--sample", min=0, help="How many attempts, drawn at random; 0: all.")] = 5,
    online: Annotated[
        int, typer.Option("--online", min=0, help="How many scores of online requests in --log, at random; 0: all.")
    ] = 5,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the draw, to repeat it.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The bank's data set, where no link to it could be kept.")
    ] = None,
) -> None:
    """Audit a random sample of a bank's steps against what it had committed to.

    The bank's role runs again from approved model, data and committed seed, and what it sends is compared with what
    the others logged. Exit code 0 only if every attempt in the sample is confirmed, or was
    killed and what is left of it fits.
    """
    if context.invoked_subcommand is not None:
        return
    home = bank if bank is not None else find_home(None)
    if not keys and not (home / "node.yaml").is_file():
        raise ConfigError("give --keys: a bundle holds no keys to be trusted")
    witnesses = _witnesses(home, receipts, logs, public_keys(keys, home))
    bank_name = _bank_of(home)
    attempts = [
        (job_id, *key)
        for job_id in dict.fromkeys((*witnesses.attempts, *witnesses.begun))
        for key in {**witnesses.attempts.get(job_id, {}), **witnesses.killed(job_id, bank_name or "")}
        if job in {None, job_id} and step in {None, key[0]}
    ]
    scores = [one for one in witnesses.opened if job is None and bank_name in {None, one.bank}]
    requests = sorted({one.request for one in scores}) if step in {None, ONLINE} else []
    if not attempts and not requests:
        raise EvidenceError("no receipt or log shows such a step: give --receipt or --log, or another --job or --step")
    findings = []
    if attempts:
        some = _drawn(attempts, sample, seed)
        findings += _show(
            f"{len(some)} of {len(attempts)} attempts drawn, with the steps that they go on from",
            _audited(home, witnesses, some, data),
        )
    if requests:
        asked = _drawn(requests, online, seed)
        findings += _show(
            f"{len(asked)} of {len(requests)} online requests drawn, at each holder whose log was given",
            _audited_online(home, witnesses, scores, set(asked)),
        )
    if not logs:
        console().print(
            "Attempts that failed and online scores stand in the logs of other parties only: give --log to see them."
        )
    if any(f.verdict not in GOOD for f in findings):
        raise typer.Exit(1)


def _drawn(found: list[R], count: int, seed: int | None) -> list[R]:
    """Return so many of them at random, in their order; all for 0."""
    order = np.random.default_rng(seed).permutation(len(found))[: count or len(found)]
    return [found[k] for k in sorted(order.tolist())]


def _show(title: str, findings: list[Finding]) -> list[Finding]:
    rows = [(f.job_id, f.step, f.attempt, f.verdict, f.party, f.detail) for f in findings]
    console().print(table(title, ("job", "step", "attempt", "verdict", "party", "what was found"), rows))
    return findings


def _audited_online(home: Path, witnesses: Witnesses, scores: list[PartOpened], requests: set[str]) -> list[Finding]:
    from veilscore.audit.online import OnlineAudit  # noqa: PLC0415 - loads the encryption library, slow

    online = OnlineAudit(home, witnesses.opened, witnesses.made_by, witnesses.circuits)
    banks = {one.bank for one in scores}
    parts = [one for one in scores if one.request in requests]
    return online.findings([*parts, *(c for c in witnesses.circuits if c.bank in banks and c.request in requests)])


def _bank_of(home: Path) -> str | None:
    """Return whose home or bundle it is, by its log; None if there is none."""
    log = home / FOLDER / LOG_FILE
    head = scan(log).head if log.is_file() else None
    return None if head is None else head.party


def _audited(home: Path, witnesses: Witnesses, drawn: list[tuple[str, str, int]], data: Path | None) -> list[Finding]:
    findings: list[Finding] = []
    for job_id in dict.fromkeys(job_id for job_id, _, _ in drawn):
        job = witnesses.jobs.get(job_id) or job_of(home, job_id)
        if job is None:
            why = "no receipt shows the job, and the bank kept no opening of it"
            findings += [
                Finding(j, step, attempt, "cannot be audited", "bank", why) for j, step, attempt in drawn if j == job_id
            ]
            continue
        if any(request != job.sha256.hex() for request in witnesses.answered.get(job_id, ())):
            raise EvidenceError(f"a party answered to another job {job_id} than the one shown", party=job.bank)
        logged = {
            key: {party: entry for party, entry in found.items() if party != job.bank}
            for key, found in witnesses.attempts.get(job_id, {}).items()
        }
        bound = witnesses.bound.get(job_id, {}) if job.bank in witnesses.parties else None
        made = witnesses.made_in(job_id)
        killed, charged = witnesses.killed(job_id, job.bank), witnesses.charged.get(job_id, {})
        with JobAudit(
            home, job_id, job, logged, data=data, bound=bound, made=made, killed=killed, charged=charged
        ) as found:
            for _, step, attempt in (one for one in drawn if one[0] == job_id):
                found.finding(step, attempt)
            findings += found.findings()
    return findings


def _witnesses(home: Path, receipts: list[Path] | None, logs: list[Path] | None, keys: Keys) -> Witnesses:
    witnesses = Witnesses()
    kept = sorted((home / FOLDER / "receipts").glob("*.json"))
    for path in receipts or kept:
        witnesses.add_receipt(read_bytes(path), keys)
    own = home / FOLDER / LOG_FILE
    for path in [*([own] if own.is_file() else []), *(logs or [])]:
        witnesses.add_log(path / FOLDER / LOG_FILE if path.is_dir() else path, keys)
    return witnesses


@app.command(epilog="Example: veilscore audit export kz-1a2b3c4d-0123456789abcdef --out bundle")
def export(
    job: JobArgument,
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder to make; it opens what the bank sent in this job.")],
    request: Annotated[
        list[str] | None,
        typer.Option("--request", help="Of online scores only these, by the id that holders logged; default all."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Copy what an auditor needs of one job into a folder: openings, what the steps read, receipt and log."""
    own = find_home(home)
    job = kept_id((own / "jobs").glob("*"), job)
    source = _openings(own, job)
    if out.exists():
        raise ConfigError(f"{out} exists already: name a folder that does not")
    if job == ONLINE:
        _export_online(own, out, set(request or ()))
        return
    try:
        out.mkdir(mode=0o700, parents=True)
        shutil.copytree(source, out / "jobs" / job / AUDIT)
        for name in (f"receipts/{job}.json", LOG_FILE):
            if (own / FOLDER / name).is_file():
                (out / FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(own / FOLDER / name, out / FOLDER / name)
        _add_data(own, out / "jobs" / job / AUDIT)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from error
    console().print(f"written: {out!s}. Whoever has it can read the labels and decrypt what the bank sent.")


def _export_online(home: Path, out: Path, requests: set[str]) -> None:
    """Copy openings of online scores and decisions, models, holders' keys, and receipts: they show who made them."""
    try:
        out.mkdir(mode=0o700, parents=True)
        count = _copy_openings(home / ONLINE_FOLDER, out / ONLINE_FOLDER, requests)
        if (home / FOLDER / "receipts").is_dir():
            shutil.copytree(home / FOLDER / "receipts", out / FOLDER / "receipts")
        (out / FOLDER).mkdir(exist_ok=True)
        shutil.copy2(home / FOLDER / LOG_FILE, out / FOLDER / LOG_FILE)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}: {error.filename}") from error
    console().print(
        f"written: {out!s}, openings of {count} parts of scores and decisions. Whoever has it can decrypt those."
    )


def _copy_openings(source: Path, target: Path, requests: set[str]) -> int:
    """Copy the openings of these requests (empty: of all) with what they need; return of how many parts they are."""
    target.mkdir(parents=True)
    parts, pools, count = OpenedParts(source), set(), 0
    for name, data in parts.records():
        if requests:
            record = record_of(data)
            if record.request not in requests:
                continue
            pools.add("" if record.labels is None else record.labels.pool)
        for kind, content in (("json", data), ("reply", parts.reply(name))):
            (target / f"{name}.{kind}").write_bytes(content)
        together = name.partition(".")[0] + ".spare"  # what the holder had sent for all spares made with it
        for file in {*source.glob(f"{name}.*.spare"), *source.glob(together)}:
            shutil.copy2(file, target / file.name)
        count += 1
    for name in (MODELS, DECISIONS, KEYS):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    (target / POOLS).mkdir()
    for path in (source / POOLS).glob("*"):
        if not requests or PoolRecord.parse(path.read_bytes()).opening.id in pools:
            shutil.copy2(path, target / POOLS / path.name)
    return count


def _add_data(home: Path, folder: Path) -> None:
    """Add data sets to which no link could be kept, where they are still the same."""
    paths = [d.path for d in load_node_config(home).datasets.values() if d.path is not None and d.path.is_file()]
    for kept in folder.iterdir():
        wanted = read_opening(kept).files.get(DATASET)
        if wanted is not None and not any(kept.glob(f"{DATASET}*")):
            for path in paths:
                if file_digest(path).hex() == wanted:
                    shutil.copy2(path, kept / f"{DATASET}{path.suffix}")


@app.command(epilog="Example: veilscore audit delete kz-1a2b3c4d-0123456789abcdef")
def delete(job: JobArgument, *, home: HomeOption = None) -> None:
    """Delete the openings of one job; from then on it cannot be audited."""
    own = find_home(home)
    job = kept_id((own / "jobs").glob("*"), job)
    source = _openings(own, job)
    try:
        shutil.rmtree(source)
    except OSError as error:
        raise ConfigError(f"{source} cannot be deleted: {error.strerror}") from error
    what = "Online scores" if job == ONLINE else f"The steps of {job}"
    console().print(f"deleted: {source!s}. {what} cannot be audited any more.")


def _openings(home: Path, job: str) -> Path:
    source = home / ONLINE_FOLDER if job == ONLINE else home / "jobs" / job / AUDIT
    if job == ONLINE and source.is_dir():
        return source
    if JOB_ID.fullmatch(job) is None or not source.is_dir():
        raise ConfigError(f"{home} keeps no openings of a job {job[:100]}: it ran elsewhere, or they were deleted")
    return source
