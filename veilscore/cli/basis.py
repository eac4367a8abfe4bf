"""`veilscore basis`: two stewards of a holder answer for a proactive campaign, in place of single consents."""

from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import ConfigError
from veilscore.release.basis import FOLDER, SignedBasis, filed, path_of
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config
from veilscore.terms.policy import utc_today

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """Two stewards answer for a proactive campaign, in place of single consents."""


@app.command("sign", epilog="Example: veilscore basis sign basis.yaml basis.json --home /srv/anna")
def sign(
    file: Annotated[Path, typer.Argument(help="A basis as YAML, or one that somebody signed already (JSON).")],
    target: Annotated[Path, typer.Argument(help="JSON file to write; it may be the same.")],
    *,
    home: HomeOption = None,
) -> None:
    """Sign a basis with your own identity; a holder takes it when two of its stewards did."""
    if target.suffix != ".json":
        raise ConfigError(f"{target}: a signed basis is a file that ends in .json")
    own = find_home(home)
    identity, _ = load_membership(own, load_node_config(own))
    signed = SignedBasis.read(file).signed_by(identity)
    signed.write(target)
    console().print(f"{target}: signed by {', '.join(sorted(signed.signatures))}", soft_wrap=True)


@app.command("file", epilog="Example: veilscore basis file basis.json --home /srv/tax")
def file_basis(
    file: Annotated[Path, typer.Argument(help="A basis that two stewards signed.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Verify a basis and keep it at the holder: from now on its bank may decide without single consents."""
    own = find_home(home, federation, party)
    config = load_node_config(own)
    _, members = load_membership(own, config)
    console().print(str(SignedBasis.read(file).file(own, config, members)), soft_wrap=True)


@app.command("list", epilog="Example: veilscore basis list --home /srv/tax")
def list_bases(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """List what a holder may be asked for without single consents, by whom it was signed, and until when."""
    own = find_home(home, federation, party)
    today = utc_today()
    rows = []
    for bank, decision, signed in filed(own):
        if signed is None:
            rows.append((bank, decision, "", "damaged: withdraw it, or file it again", "", "", ""))
            continue
        one, ends = signed.basis, signed.basis.ends.isoformat()
        until = ends if today <= one.ends else f"ended {ends}"
        by = ", ".join(sorted(signed.signatures))
        rows.append((bank, decision, f"{one.bits:g}", until, one.population, one.legal_ground, by))
    heads = ("bank", "decision", "bits", "until", "population", "legal ground", "signed by")
    console().print(table(str(own / FOLDER), heads, rows))


@app.command("withdraw", epilog="Example: veilscore basis withdraw bank proactive-limit --home /srv/tax")
def withdraw(
    bank: Annotated[str, typer.Argument(help="The bank.")],
    decision: Annotated[str, typer.Argument(help="Its decision.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """End a basis at once."""
    own = find_home(home, federation, party)
    path = path_of(own, bank, decision)
    if any(Path(name).name != name for name in (bank, decision)) or not path.is_file():
        raise ConfigError(f"no basis of {bank[:60]} for {decision[:60]}; `veilscore basis list` shows what there is")
    path.unlink()  # whatever it says: a damaged one, which nothing goes by, ends too
    console().print(f"the basis of {bank} for {decision} ended")
