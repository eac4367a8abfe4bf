"""`veilscore section`: a holder's sections of credit reports, written at home under the firm's own consent."""

from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import ConfigError
from veilscore.release.consent import Signed
from veilscore.terms.membership import load_membership
from veilscore.terms.node_config import load_node_config
from veilscore.terms.settings import read_text

app = typer.Typer(no_args_is_help=True)


@app.callback()
def group() -> None:
    """A holder's section of a credit report: what it may tell, write it, count it."""


@app.command("fields", epilog="Example: veilscore section fields tax")
def show_fields(
    catalogue: Annotated[str, typer.Argument(help="tax, registry, court or bureau; all if left out.")] = "",
) -> None:
    """List the published fields: what each is made of, in which bins it is told, and how many bits that is at most."""
    from veilscore.reports.section_fields import section_fields  # noqa: PLC0415

    published = section_fields()
    found = published.of_catalogue(catalogue) if catalogue else published.fields
    if not found:
        raise ConfigError(f"no fields of a catalogue {catalogue[:40]!r}; there are: bureau, court, registry, tax")
    rows = (
        (name, f"{one.en} / {one.zh}", " | ".join(one.variables), one.n_codes, f"{one.bits:.1f}")
        for name, one in found.items()
    )
    console().print(table("Published fields", ("field", "says", "of", "values", "bits at most"), rows))


@app.command(
    "write", epilog="Example: veilscore section write consent.json out --firm 9131... --data main --home /srv/tax"
)
def write(
    consent: Annotated[Path, typer.Argument(help="The firm's consent, a token or a list, for purpose report.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the signed sections, one file a firm, for the bank.")],
    *,
    firm: Annotated[list[str], typer.Option(help="The firm's id; may be repeated.")],
    dataset: Annotated[str, typer.Option("--data", help="Data set in node.yaml that was built from a catalogue.")],
    normaliser: Annotated[str, typer.Option(help="Kind of id, as in jobs.")] = "uscc",
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Write and sign sections: what consent and policy allow; a second time within a quarter says the same."""
    from veilscore.data.ids import check_ids, normalise_ids  # noqa: PLC0415 - loads numpy
    from veilscore.files.private import private_folder  # noqa: PLC0415
    from veilscore.reports.section_desk import SectionDesk  # noqa: PLC0415

    own = find_home(home, federation, party)
    node = load_node_config(own)
    identity, members = load_membership(own, node)
    signed = Signed.from_text(read_text(consent, "consent document"), str(consent))
    ids = normalise_ids(firm, normaliser)
    check_ids(ids, normaliser, source="--firm")
    sections = SectionDesk(own, node, identity, members).write(signed, [str(one) for one in ids], dataset)
    private_folder(folder)
    for number, one in enumerate(sections, start=1):
        path = one.write(folder / f"section-{node.name}-{one.section.sha256[:16]}.json")
        console().print(f"{number}: {len(one.section.told)} fields for {one.section.bank}: {path}", soft_wrap=True)


@app.command("told", epilog="Example: veilscore section told --home /srv/tax")
def told(*, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None) -> None:
    """Show how many firms, sections and fields each bank was told in each quarter, and the bits of a firm at most."""
    from veilscore.reports.section_desk import told_sections  # noqa: PLC0415

    own = find_home(home, federation, party)
    node = load_node_config(own)
    if node.role != "holder":
        raise ConfigError(f"{own} is the home of a {node.role}; sections are written at a holder's")
    rows = (
        (one.period, one.bank, one.firms, one.sections, one.fields, f"{one.bits:.1f}") for one in told_sections(own)
    )
    heads = ("quarter", "bank", "firms", "sections", "fields of a firm at most", "bits of a firm at most")
    console().print(table(f"Sections written by {node.name}", heads, rows))
