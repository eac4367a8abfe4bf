"""`veilscore consent`: keygen, issue, revoke, list (an issuer's), import (a bank's or a holder's)."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, moment, table
from veilscore.cli.files import read_firms, write_bytes
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.data.ids import check_ids, normalise_ids
from veilscore.errors import ConfigError
from veilscore.release.consent import Signed, body_of, claim_of
from veilscore.release.issuer import Issuer, import_consent
from veilscore.release.scope import SCORES, Scope
from veilscore.terms.settings import read_text

IssuerFolder = Annotated[Path, typer.Argument(help="Folder with the issuer's key.", metavar="ISSUER")]
_DAY_S = 86400.0

app = typer.Typer(no_args_is_help=True)


@app.command("keygen", epilog="Example: veilscore consent keygen portal --name portal")
def keygen(
    folder: IssuerFolder, *, name: Annotated[str, typer.Option(help="Name of the issuer in holders' policies.")]
) -> None:
    """Make an issuer's key; holders put the line it prints into their policy."""
    issuer = Issuer.create(folder, name)
    console().print(f"in each holder's policy: consent_issuers: {{{issuer.name}: {issuer.public_key}}}", soft_wrap=True)


@app.command("issue", epilog="Example: veilscore consent issue portal consent.json --firm 9131... --purpose x")
def issue(
    folder: IssuerFolder,
    file: Annotated[Path, typer.Argument(help="JSON file to write.")],
    *,
    purpose: Annotated[str, typer.Option(help="What the firm agreed to, word for word as in jobs and requests.")],
    firm: Annotated[str | None, typer.Option(help="A token for this firm.")] = None,
    firms: Annotated[Path | None, typer.Option(help="A list for the firms of a CSV file (its first column).")] = None,
    column: Annotated[str | None, typer.Option(help="With --firms: the column with the ids.")] = None,
    bank: Annotated[str, typer.Option(help="Only for this bank; default any.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="Only for this model; may be repeated; default any.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="score_online, score_batch, decide, or report_section; default both kinds of scores."),
    ] = None,
    holder: Annotated[list[str] | None, typer.Option(help="Of decisions: whose data; may be repeated.")] = None,
    bits: Annotated[float, typer.Option(help="Of decisions: most bits that one tells; a watch, in a year.")] = 0.0,
    contract: Annotated[str, typer.Option(help="Of a watch: the credit contract with which the consent ends.")] = "",
    field: Annotated[
        list[str] | None,
        typer.Option(help="Of a credit report's sections: a field (`veilscore section fields`); may be repeated."),
    ] = None,
    days: Annotated[float, typer.Option(min=0.001, help="Validity from now on.")] = 30.0,
    reusable: Annotated[bool, typer.Option("--reusable", help="A token for many requests; default one.")] = False,
    normaliser: Annotated[str, typer.Option(help="Kind of id, as in jobs.")] = "uscc",
) -> None:
    """Sign that one firm, or each firm of a list, agreed to be scored."""
    if (firm is None) == (firms is None):
        raise ConfigError("give either --firm (a token) or --firms (a list)")
    if file.exists():
        raise ConfigError(f"{file} exists already; choose a new name")
    now = time.time()
    scope = Scope(
        purpose,
        tuple(task or SCORES),
        bank,
        tuple(model or ()),
        now,
        now + days * _DAY_S,
        holders=tuple(holder or ()),
        bits=bits,
        contract=contract,
        fields=tuple(field or ()),
    )
    issuer = Issuer.load(folder)
    if firm is not None:
        signed = issuer.token(_normalised([firm], normaliser, "--firm")[0], scope, once=not reusable)
    else:
        signed = issuer.list(_normalised(read_firms(firms or Path(), column), normaliser, str(firms)), scope)
    write_bytes(file, signed.to_text().encode())
    console().print(f"{body_of(signed)['kind']} {claim_of(signed).id} in {file}", soft_wrap=True)


@app.command("revoke", epilog="Example: veilscore consent revoke portal revoked.json --firm 9131...")
def revoke(
    folder: IssuerFolder,
    file: Annotated[Path, typer.Argument(help="JSON file to write, for any one holder; replaced if it exists.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of tokens or lists.")] = None,
    *,
    firm: Annotated[list[str] | None, typer.Option(help="A firm that ends every consent; may be repeated.")] = None,
    lift: Annotated[list[str] | None, typer.Option(help="Such a firm that wants to consent anew.")] = None,
    contract: Annotated[list[str] | None, typer.Option(help="A contract that ended, with its watch.")] = None,
    normaliser: Annotated[str, typer.Option(help="Kind of id, as in jobs.")] = "uscc",
) -> None:
    """Revoke consents by id or by firm; the file names all so far, and reaches every holder by itself from one of them.

    Firms are in it as salted hashes among random ones. Holders fetch newer lists from each other every half minute.
    """
    if not (ids or firm or lift or contract):
        raise ConfigError("say what to revoke: ids of tokens or lists, --firm ID, or --contract ID")
    issuer = Issuer.load(folder)
    ids = [*(ids or ()), *(one for name in contract or () for one in issuer.of_contract(name))]
    ended, lifted = (_normalised(list(f), normaliser, o) if f else [] for f, o in ((firm, "--firm"), (lift, "--lift")))
    write_bytes(file, issuer.revoke(*ids, firms=ended, lift=lifted).to_text().encode())
    console().print(
        f"{len(issuer.revoked())} consents and {len(issuer.revoked_firms())} firms revoked in {file}: "
        f"`veilscore consent import {shlex.quote(str(file))}` at any one holder; the others fetch it from there",
        soft_wrap=True,
    )


@app.command("list", epilog="Example: veilscore consent list portal")
def list_issued(folder: IssuerFolder) -> None:
    """List what an issuer has issued."""
    issuer = Issuer.load(folder)
    revoked, now = issuer.revoked(), time.time()
    rows = []
    for c in issuer.issued():
        state = "revoked" if c.id in revoked else "expired" if c.scope.expires_s <= now else "valid"
        use, until = "once" if c.once else "often", moment(c.scope.expires_s)
        rows.append((c.id, c.kind, len(c.commitments), c.scope.purpose, c.scope.bank or "any", use, until, state))
    heads = ("id", "kind", "firms", "purpose", "bank", "use", "until", "state")
    console().print(table(f"Consents of {issuer.name}", heads, rows))


@app.command("import", epilog="Example: veilscore consent import consent.json --home /srv/bank")
def import_file(
    file: Annotated[Path, typer.Argument(help="A token or list (at a bank), or revocations (at a holder).")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Put a consent or revocations where a node finds them."""
    signed = Signed.from_text(read_text(file, "consent document"), str(file))
    body = body_of(signed)
    kind = body["kind"]
    if kind not in {"token", "list", "revocations"}:
        raise ConfigError(f"{file} is no token, list or revocations")
    number = str(body.get("id") or f"{body.get('issuer')}-{body.get('number') or body.get('issued_s')}")
    if not number.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise ConfigError(f"{file} has an id that cannot name a file")
    console().print(str(import_consent(find_home(home, federation, party), signed, kind, number)))


def _normalised(ids: list[str], normaliser: str, source: str) -> list[str]:
    found = normalise_ids(ids, normaliser)
    check_ids(found, normaliser, source=source)
    return [str(one) for one in found]
