"""Commands of the sandbox: submit code, show, approve, reject, run, outputs, release, mock-data; syft-* over PySyft."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from veilscore.cli.connection import reach
from veilscore.cli.display import coloured, console, line, styled, table
from veilscore.cli.files import write_bytes
from veilscore.cli.homes import find_home
from veilscore.errors import ConfigError
from veilscore.keys.identity import Identity
from veilscore.sandbox.desk import Desk, Entry
from veilscore.sandbox.mock_data import mock_csv
from veilscore.sandbox.private_data import read_dataset
from veilscore.sandbox.reception import message_of, outputs_of
from veilscore.sandbox.release import write_outputs
from veilscore.sandbox.submission import make_submission, printable, write_submission
from veilscore.sandbox.syft_envelope import pack
from veilscore.sandbox.syft_exchange import give_back, read_result, receive
from veilscore.sandbox.syft_folder import SyftJob, syftbox_of
from veilscore.terms.federation import Federation
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config
from veilscore.v1 import control_pb2 as pb

app = typer.Typer(no_args_is_help=True)
HomeOption = Annotated[Path | None, typer.Option("--home", help="The party's home; default $VEILSCORE_HOME, or here.")]
Reason = Annotated[str, typer.Option("--reason", help="Kept with the signed decision.")]
Id = Annotated[str, typer.Argument(help="The submission's id or how it begins, or its name.", metavar="ID")]
Email = Annotated[str, typer.Option("--email", help="Your address in PySyft.")]
SyftBox = Annotated[Path | None, typer.Option("--syftbox", help="PySyft's folder here; default ~/SyftBox_EMAIL.")]
_SEND_S = 60.0


@app.command(epilog="Example: veilscore sandbox submit code/ --home /srv/bank")
def submit(
    folder: Annotated[Path, typer.Argument(help="Folder with submission.yaml and the code.")],
    *,
    to: Annotated[
        Path | None, typer.Option(help="In place of the owner's node: a folder that is carried to its sandbox/inbox.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Sign a folder of code and send it to the owner's node, or put it into a folder."""
    if to is not None and not to.is_dir():
        raise ConfigError(f"inbox not found: {to}")
    identity, federation = _membership(home)
    submission = make_submission(folder, identity)
    if to is not None:
        console().print(f"submitted {submission.sha256} to {write_submission(submission, to).parent}", soft_wrap=True)
        return
    owner = federation.member(submission.manifest.owner).name
    reply = reach(
        find_home(home, None),
        lambda c: c.call(owner, "SubmitCode", message_of(submission), pb.CodeSubmitted, timeout_s=_SEND_S),
    )
    console().print(f"submitted {reply.submission} to {owner}", soft_wrap=True)


@app.command(epilog="Example: veilscore sandbox fetch code/ --out result/ --home /srv/bank")
def fetch(
    folder: Annotated[Path, typer.Argument(help="The folder that was submitted, unchanged.")],
    *,
    out: Annotated[Path | None, typer.Option(help="New folder for the outputs; none: they are shown.")] = None,
    home: HomeOption = None,
) -> None:
    """Get what the owner released of your code from its node: by the owner's signature, and of exactly this code."""
    identity, federation = _membership(home)
    submission = make_submission(folder, identity)
    owner = federation.member(submission.manifest.owner)
    ask = pb.AskOutputs(submission=submission.sha256)
    reply = reach(
        find_home(home, None), lambda c: c.call(owner.name, "AskOutputs", ask, pb.ReleasedOutputs, timeout_s=_SEND_S)
    )
    _show_result(outputs_of(reply, submission, owner.identity), out)


@app.command(epilog="Example: veilscore sandbox show 3fa1 --home /srv/tax")
def show(
    submission: Annotated[str | None, typer.Argument(help="Its id or how it begins; none: all.", metavar="ID")] = None,
    *,
    home: HomeOption = None,
) -> None:
    """List submissions, or show all of one: what it is for, what it will write, and its code to read."""
    desk = _desk(home)
    for problem in desk.receive():
        console().print(styled("[red]left in the inbox[/red] {}", problem))
    if submission is not None:
        _show_one(desk.entry(submission))
        return
    rows = []
    for entry in desk.entries():
        manifest = entry.submission.manifest
        rows.append(
            (entry.id[:12], manifest.name, entry.submission.sender, manifest.dataset, manifest.purpose, entry.status)
        )
    console().print(table("Submissions", ("id", "name", "from", "data set", "purpose", "status"), rows))


@app.command(epilog="Example: veilscore sandbox approve 3fa1 --home /srv/tax")
def approve(submission: Id, *, home: HomeOption = None, reason: Reason = "") -> None:
    """Approve the code you have read, for the data set as it is now; signed, and bound to both by digest."""
    _say(_desk(home).approve(submission, reason))


@app.command(epilog='Example: veilscore sandbox reject 3fa1 --home /srv/tax --reason "purpose not allowed"')
def reject(submission: Id, *, home: HomeOption = None, reason: Reason = "") -> None:
    """Refuse the code, or outputs that wait for release."""
    _say(_desk(home).reject(submission, reason))


@app.command(epilog="Example: veilscore sandbox run 3fa1 --home /srv/tax")
def run(submission: Id, *, home: HomeOption = None) -> None:
    """Run approved code on the private data, in the sandbox; its outputs go through the gate and wait here."""
    desk = _desk(home)
    outcome = desk.run(submission)
    console().print(line(coloured(outcome.status), f"(exit code {outcome.exit_code}) in {outcome.seconds:.2f} s"))
    record, _ = desk.report(submission)
    for note in record["notes"]:
        console().print(f"  {note}")
    if not record["passed"]:
        console().print("no outputs passed; what the code printed is in logs/ of the submission")
        raise typer.Exit(1)
    console().print("look at the outputs with `veilscore sandbox outputs`, then `release` or `reject`")


@app.command(epilog="Example: veilscore sandbox outputs 3fa1 --home /srv/tax")
def outputs(submission: Id, *, home: HomeOption = None) -> None:
    """Show outputs that passed the gate, exactly as they would leave."""
    record, files = _desk(home).report(submission)
    for note in record["notes"]:
        console().print(f"note: {note}")
    for name, content in files.items():
        console().print(styled("[bold]{}[/bold] {} bytes, SHA-256 {}", name, len(content), record["outputs"][name]))
        console().print(printable(content))


@app.command(epilog="Example: veilscore sandbox release 3fa1 --home /srv/tax")
def release(submission: Id, *, home: HomeOption = None, reason: Reason = "") -> None:
    """Approve the release of the outputs: signed, and put into the outbox for the modeller."""
    console().print(f"released: {_desk(home).release(submission, reason)}")


@app.command(
    "syft-pack",
    epilog="Example: veilscore sandbox syft-pack code/ --email m@bank.example --to o@tax.example --home /srv/bank",
)
def syft_pack(
    folder: Annotated[Path, typer.Argument(help="Folder with submission.yaml and the code.")],
    *,
    email: Email,
    to: Annotated[str, typer.Option(help="The owner's address in PySyft.")],
    syftbox: SyftBox = None,
    home: HomeOption = None,
) -> None:
    """Sign a folder of code and put it into your SyftBox as a PySyft job to the owner; PySyft then pushes it."""
    identity, federation = _membership(home)
    submission = make_submission(folder, identity)
    federation.member(submission.manifest.owner)
    job = SyftJob.carrying(submission.sha256, syftbox_of(email, syftbox), to, email)
    typer.echo(f"packed {submission.sha256} as {pack(submission, identity, job)}")


@app.command("syft-receive", epilog="Example: veilscore sandbox syft-receive --email o@tax.example --home /srv/tax")
def syft_receive(*, email: Email, syftbox: SyftBox = None, home: HomeOption = None) -> None:
    """Take in the submissions that PySyft brought; then show, approve, run and release them like all others."""
    received, problems = receive(_desk(home), email, syftbox_of(email, syftbox))
    for problem in problems:
        console().print(styled("[red]left in the SyftBox[/red] {}", problem))
    for submission in received:
        typer.echo(f"received {submission}")
    if not received and not problems:
        typer.echo("nothing new in the SyftBox; sync with PySyft first")


@app.command("syft-return", epilog="Example: veilscore sandbox syft-return 3fa1 --email o@tax.example --home /srv/tax")
def syft_return(submission: Id, *, email: Email, syftbox: SyftBox = None, home: HomeOption = None) -> None:
    """Give released outputs back as the result of the PySyft job they came in; PySyft carries them at its next sync."""
    typer.echo(f"given back: {give_back(_desk(home), submission, email, syftbox_of(email, syftbox))}")


@app.command(
    "syft-read",
    epilog="Example: veilscore sandbox syft-read 3fa1 --email m@bank.example --out result/ --home /srv/bank",
)
def syft_read(
    submission: Id,
    *,
    email: Email,
    out: Annotated[Path | None, typer.Option(help="New folder for the outputs; none: they are shown.")] = None,
    syftbox: SyftBox = None,
    home: HomeOption = None,
) -> None:
    """Read a result that PySyft brought back: released by the owner's signature, and of exactly the code you sent."""
    identity, federation = _membership(home)
    found, files = read_result(identity, federation, submission, email, syftbox_of(email, syftbox))
    typer.echo(f"verified: released by the owner, of submission {found}")
    _show_result(files, out)


def _show_result(files: Mapping[str, bytes], out: Path | None) -> None:
    if out is None:
        for name, content in files.items():
            console().print(styled("[bold]{}[/bold] {} bytes", name, len(content)))
            console().print(printable(content), highlight=False)
        return
    if out.exists():
        raise ConfigError(f"{out} exists already: name a new folder")
    write_outputs(out, files)
    typer.echo(f"{len(files)} outputs in {out}")


@app.command("mock-data", epilog="Example: veilscore sandbox mock-data main --out mock.csv --home /srv/tax")
def mock_data(
    dataset: Annotated[str, typer.Argument(help="Name of the data set in node.yaml.")],
    *,
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows to draw.")] = 1000,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same rows.")] = None,
    home: HomeOption = None,
) -> None:
    """Draw mock data from coarse marginals of a data set, each column by itself; for developing code."""
    desk = _desk(home)
    rng = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    k = desk.policy.min_group_size
    content = mock_csv(read_dataset(desk.config, dataset), rows, k, rng, show_ids=desk.policy.show_ids)
    write_bytes(out, content)
    console().print(f"{rows} mock rows in {out}; nothing shown rests on fewer than {k} rows")


def _membership(home: Path | None) -> tuple[Identity, Federation]:

    own = find_home(home, None)
    return load_membership(own, load_node_config(own))


def _desk(home: Path | None) -> Desk:

    return Desk(find_home(home, None))


def _say(entry: Entry) -> None:
    console().print(line(entry.id, coloured("accepted" if entry.status == "approved" else entry.status)))


def _show_one(entry: Entry) -> None:
    manifest, out = entry.submission.manifest, console()
    rows = [("id", entry.id), ("from", entry.submission.sender), ("status", entry.status)]
    rows += [(key, str(getattr(manifest, key))) for key in ("name", "dataset", "purpose", "entry")]
    rows += [
        (f"output {name}", output.model_dump_json(exclude_defaults=True)) for name, output in manifest.outputs.items()
    ]
    out.print(table("Submission", ("what", "value"), rows))
    for path, content in sorted(entry.submission.files.items()):
        out.print(styled("[bold]{}[/bold]", path))
        out.print(printable(content), highlight=False)
