"""`veilscore evidence` shows and verifies logs and receipts; only `verify-log --ask` calls other nodes."""

import asyncio
import csv
import io
import math
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from veilscore.cli.connection import Connection, reach
from veilscore.cli.display import console, moment, styled, table
from veilscore.cli.files import read_bytes, write_bytes
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import ConfigError, EvidenceError, PeerError
from veilscore.evidence.anchor import Anchor, SecondLog, TimeStamps
from veilscore.evidence.documents import AnyKeys, CertificateKeys, Keys, canonical, load_keys
from veilscore.evidence.heads import SignedHead
from veilscore.evidence.job_ledger import Ledger
from veilscore.evidence.kept_receipts import load_receipt, score_receipt
from veilscore.evidence.log import FOLDER, LOG_FILE, scan
from veilscore.evidence.online_receipts import online_receipt
from veilscore.evidence.usage import usage as counted
from veilscore.evidence.verify import heads_in, verify_log, verify_receipt
from veilscore.keys.identity import load_identity
from veilscore.terms.node_config import load_node_config
from veilscore.terms.settings import parse_json
from veilscore.v1.control_pb2 import EvidenceCall, EvidenceReply

app = typer.Typer(no_args_is_help=True)

KeysOption = Annotated[
    list[Path] | None,
    typer.Option("--keys", help="Public keys: a federation.yaml or PEM certificates; may be given several times."),
]
LogArgument = Annotated[Path, typer.Argument(help="A node's home, or a copy of its log.jsonl.", metavar="LOG")]
RootsOption = Annotated[
    Path | None, typer.Option("--tsa-roots", help="PEM certificates of time-stamping authorities, for time stamps.")
]


@app.command(epilog="Example: veilscore evidence log --home /srv/tax --last 20")
def log(
    *, home: HomeOption = None, last: Annotated[int, typer.Option(min=1, help="How many entries to show.")] = 50
) -> None:
    """Show the last entries of this party's log."""
    own = find_home(home)
    path = own / FOLDER / LOG_FILE
    entries: list[bytes] = []
    found = scan(path, visit=lambda _, entry: entries.append(entry))
    if found.head is None:
        raise EvidenceError(f"no log at {path}: the node has not been started yet")
    first, jobs = max(len(entries) - last, 0), Ledger(own / "state" / "jobs")
    rows = [_row(number, parse_json(entry), jobs) for number, entry in enumerate(entries[first:], start=first)]
    console().print(table(f"Log of {found.head.party}", ("entry", "time", "what", "job", "details"), rows))
    console().print(f"{found.head.size} entries, root {found.head.root}")


def _row(number: int, entry: dict[str, object], jobs: Ledger) -> tuple[str, ...]:
    """Return a line of the log; a release says for which bank, model and purpose it was, and of how many firms."""
    shown = ("step", "attempt", "outcome", "answer", "party", "anchor", "unsigned", "bytes", "bank")
    details = [f"{name} {entry[name]}" for name in shown if name in entry]
    kind, job_id = str(entry.get("kind")), str(entry.get("job_id", ""))
    known, scores = jobs.get(job_id), entry.get("scores")
    if kind == "in_use":
        details += [f"model {entry.get('model')}", f"instead of {entry.get('before') or 'none'}"]
    elif known is not None and kind != "step":
        model = getattr(known.job.parameters, "model", None)
        details += [f"bank {known.job.bank}", f"model {model}" if model else known.job.task]
        details.append(f"purpose {known.job.purpose}")
    elif entry.get("model"):
        details.append(f"model {entry.get('named') or str(entry['model'])[:12]}")
        details += [f"purpose {entry['purpose']}"] if entry.get("purpose") else []
    if isinstance(scores, dict):
        details.append(f"{scores.get('count')} firms")
    elif kind in {"score", "share_opened", "band_opened", "decision_part_opened", "decision_opened", "record_told"}:
        details.append("1 firm")
    time_ms = entry.get("time_ms", 0)
    when = moment(time_ms / 1000 if isinstance(time_ms, int) else 0, seconds=True)
    return str(number), when, kind, job_id, ", ".join(details)


@app.command(epilog="Example: veilscore evidence usage --home /srv/tax --out usage.csv")
def usage(
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="CSV file to write as well.")] = None,
) -> None:
    """Show what a holder's data were used for: by month, bank, purpose and model."""
    own = find_home(home, federation, party)
    if load_node_config(own).role != "holder":
        raise ConfigError(f"{own} is no holder's home: usage is counted where the data are; name a holder (--home)")
    uses = counted(own)
    names = ("month", "bank", "purpose", "model", "jobs", "mu", "held out", "batches", "firms", "single scores")
    rows = [(*astuple(one)[:5], _mu(one.mu2), *astuple(one)[6:]) for one in uses]
    console().print(table(f"Uses of the data of {own.name}", names, rows))
    if out is not None:
        text = io.StringIO()
        csv.writer(text).writerows([names, *rows])
        write_bytes(out, text.getvalue().encode(), say=True)


def _mu(mu2: float) -> str:
    return "exact" if math.isinf(mu2) else f"{math.sqrt(mu2):.2f}"


@app.command(epilog="Example: veilscore evidence receipt kz-1a2b3c4d-0123456789abcdef --firm 9131... --out r.json")
def receipt(
    job: Annotated[str | None, typer.Argument(help="The job's id or name (the newest of it).", metavar="[JOB]")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="Where to write it.")],
    firm: Annotated[
        str | None, typer.Option("--firm", help="Bank: the receipt of this firm's score of a batch.")
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", help="Bank: of a score given online, by request id.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Write the receipt of a job or of one score; whoever has it can verify it offline."""
    own = find_home(home)
    if (job is None) == (request is None) or (firm is not None and job is None):
        raise ConfigError("say which: JOB, JOB --firm ID (a score of a batch), or --request ID (a score given online)")
    if request is not None:
        write_bytes(out, online_receipt(own, request).to_bytes(), say=True)
    elif job is not None:
        found = load_receipt(own, job) if firm is None else score_receipt(own, job, firm)
        write_bytes(out, found.to_bytes(), say=True)


@app.command(epilog="Example: veilscore evidence verify receipt.json --keys federation.yaml")
def verify(
    receipt_file: Annotated[Path, typer.Argument(help="A receipt.", metavar="RECEIPT")],
    *,
    keys: KeysOption = None,
    tsa_roots: RootsOption = None,
    home: HomeOption = None,
) -> None:
    """Verify a receipt offline and say what it proves; ends with an error if it does not hold."""
    proved = verify_receipt(read_bytes(receipt_file), public_keys(keys, home), _certificates(tsa_roots))
    _say(proved)


@app.command("verify-log", epilog="Example: veilscore evidence verify-log /srv/tax --ask")
def verify_log_command(
    log_file: LogArgument,
    *,
    keys: KeysOption = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option(
            "--seen",
            "--head",
            help="What others kept of this log: a receipt, a head (HOME/evidence/heads/PARTY.json), or another's home.",
        ),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the other members, with the identity of --home or of LOG itself.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Verify a whole log: every byte, entry and signature, and that it continues every head that was kept of it.

    Homes beside LOG are looked at too, as in a local federation. Nothing but a head that somebody else kept shows that
    a log was cut at its end: without one this says so, with exit code 1.
    """
    path, own = _log_of(log_file)
    head = scan(path).head
    party = "" if head is None else head.party
    beside = [] if own is None else sorted(p.parent for p in own.resolve().parent.glob("*/node.yaml"))
    others = [place for place in beside if own is not None and place != own.resolve()]
    heads = [h for place in (*(seen or ()), *others) for h in _heads_kept(place, party)]
    by_others = len({(h.size, h.root) for h in heads if h.party == party})
    if ask:
        asked = heads_of_members(find_home(home) if home is not None or own is None else own, party)
        heads += asked
        by_others += len(asked)
    if own is not None:
        heads += _heads_kept(own, party)
    _say(verify_log(path, public_keys(keys, own), {head.signature: head for head in heads}.values()))
    if not by_others:
        console().print(
            "[yellow]nobody else's head of this log was given[/yellow]: if it was cut at its end, that does not show "
            "here. Name what others kept (--seen), or ask them (--ask).",
            soft_wrap=True,
        )
        raise typer.Exit(1)


@app.command(epilog="Example: veilscore evidence anchor /srv/tax --notary /srv/notary --keys federation.yaml")
def anchor(
    log_file: LogArgument,
    *,
    out: Annotated[Path, typer.Option("--out", help="Where to write the anchor's receipt.")],
    keys: KeysOption = None,
    notary: Annotated[
        Path | None, typer.Option("--notary", help="Folder of the second log; its identity/ holds the notary's key.")
    ] = None,
    tsa: Annotated[str | None, typer.Option("--tsa", help="Address of a time-stamping authority (RFC 3161).")] = None,
    tsa_roots: RootsOption = None,
) -> None:
    """Have the head of a log kept outside: in another operator's log, or as a time stamp. The log is verified first."""
    if (notary is None) == (tsa is None):
        raise ConfigError("say where: --notary FOLDER (a second log) or --tsa ADDRESS (a time stamp)")
    path, own = _log_of(log_file)
    public = public_keys(keys, own)
    _say(verify_log(path, public))
    found = scan(path)
    head = found.head
    if head is None:
        raise EvidenceError(f"{path} holds no signed head")
    where: Anchor
    if notary is not None:
        identity = load_identity(notary / "identity")
        where = SecondLog(notary, identity, AnyKeys([CertificateKeys([identity.certificate]), public]))
    else:
        where = TimeStamps(str(tsa), _certificates(tsa_roots))
    done = where.submit(head, lambda size: [step.hex() for step in found.tree.consistency(size, head.size)])
    write_bytes(out, done.to_bytes(), say=True)


def _log_of(path: Path) -> tuple[Path, Path | None]:
    """Return the log file, and the home if `path` is one."""
    return (path / FOLDER / LOG_FILE, path) if (path / "node.yaml").is_file() else (path, None)


def _heads_kept(place: Path, party: str) -> list[SignedHead]:
    """Return the heads of a party's log that a file or another's home holds."""
    if not place.is_dir():
        return _heads_of(read_bytes(place))
    kept = place / FOLDER
    files = [kept / "heads" / f"{party}.json", *sorted((kept / "receipts").glob("*.json"))]
    return [head for file in files if file.is_file() for head in _heads_of(read_bytes(file))]


def heads_of_members(home: Path, party: str) -> list[SignedHead]:
    """Return the last head of a party's log that each other member saw, asked with a home's identity.

    Raises PeerError where nobody answers.
    """

    async def asked(connection: Connection) -> list[SignedHead]:
        own = connection.name == party
        call = EvidenceCall() if own else EvidenceCall(ask="of", job_id=party)
        names = [m.name for m in connection.federation.members if m.address is not None and m.name != party]
        found = await asyncio.gather(*(_asked(connection, name, call) for name in names))
        if not any(answered for answered, _ in found):
            raise PeerError(f"none of {', '.join(names)} answers; name what they kept with --seen")
        for name, (answered, _) in zip(names, found, strict=True):
            if not answered:
                console().print(styled("[yellow]{} does not answer[/yellow]", name), soft_wrap=True)
        return [SignedHead.parse(body) for _, body in found if body]

    return reach(home, asked)


async def _asked(connection: Connection, name: str, call: EvidenceCall) -> tuple[bool, bytes]:
    try:
        return True, (await connection.call(name, "HeadSeen", call, EvidenceReply, timeout_s=5)).body
    except PeerError:
        return False, b""


def _heads_of(data: bytes) -> list[SignedHead]:
    try:
        body = parse_json(data)
        if isinstance(body, dict) and "root" in body:
            return [SignedHead.parse(canonical(body))]  # a node keeps heads with spaces, for people
    except (ValueError, RecursionError) as error:
        raise EvidenceError("a file given with --seen is not JSON") from error
    return heads_in(data)


def public_keys(files: list[Path] | None, home: Path | None) -> Keys:
    """Return the keys that the user gave, or those of the home's federation."""
    if files:
        return AnyKeys([load_keys(file) for file in files])
    own = find_home(home)
    return load_keys(load_node_config(own).federation)


def _certificates(path: Path | None) -> list[x509.Certificate]:
    if path is None:
        return []
    try:
        return x509.load_pem_x509_certificates(read_bytes(path))
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(f"{path} holds no PEM certificate that can be read") from error


def _say(proved: list[str]) -> None:
    console().print(styled("[green]verified[/green]"))
    for sentence in proved:
        console().print(f"  {sentence}")
