"""`veilscore policy` of a bank: lending policies, their checks and back-tests, and the two people who activate them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veilscore.cli.display import console, line, moment, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, find_home, identity_of
from veilscore.errors import ConfigError
from veilscore.terms.federation import load_federation
from veilscore.terms.node_config import load_node_config

if TYPE_CHECKING:
    from party_bank.policy.backtest import Group
    from party_bank.policy.check import PolicyFinding
    from party_bank.policy.graph import Graph

PolicyName = Annotated[
    str,
    typer.Argument(
        help="A policy: a file *.json, a name filed here (the active version), NAME@VERSION, or one shipped."
    ),
]
PastOption = Annotated[Path, typer.Option("--firms", help="Past firms: CSV or Parquet with the policy's inputs.")]
LabelOption = Annotated[
    str, typer.Option("--label", help="Column with what came of them: 1 bad, 0 good, empty unknown.")
]
LossOption = Annotated[
    float, typer.Option("--loss-given-default", min=0.0, max=1.0, help="Part of a loan that is lost.")
]

app = typer.Typer(no_args_is_help=True)


@app.command("list", epilog="Example: veilscore policy list --home /srv/bank")
def list_policies(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """List the bank's lending policies, all versions of them, and which decide; then those that are shipped."""
    from party_bank.policy.versions import Policies  # noqa: PLC0415 - kept out of `--help`

    rows = [
        (one.policy, one.version, one.sha256[:16], moment(one.filed_s), one.author, one.status)
        for one in Policies(find_home(home, federation)).versions()
    ]
    console().print(table("Lending policies", ("policy", "version", "hash", "filed", "author", "status"), rows))
    console().print(f"shipped: {', '.join(_shipped())}; `veilscore policy show NAME --json` prints one to start from")


@app.command("test", epilog="Example: veilscore policy test admission.json --firms past.csv")
def try_policy(
    policy: PolicyName,
    firms: Annotated[Path | None, typer.Option("--firms", help="Past firms: CSV or Parquet with its inputs.")] = None,
    *,
    label: LabelOption = "default",
    loss_given_default: LossOption = 0.45,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Check a policy for gaps, overlaps and rows never reached, and try it on past firms; exit code 1 if refused."""
    from party_bank.policy.backtest import backtest, fired_order, read_past  # noqa: PLC0415 - loads the engine
    from party_bank.policy.check import check  # noqa: PLC0415

    graph = _graph(policy, home, federation)
    _show_head(graph)
    refused = _show_findings(check(graph))
    if firms is not None and not refused:
        past = read_past(firms, [graph], label=label)
        found = backtest(graph, past, loss_given_default)
        out = console()
        if found.outcomes:
            out.print(table("Past firms by decision", ("decision", *_HEADS), _groups(found.outcomes.items())))
        rows = [((one.table, one.row, one.why), found.rows[one]) for one in fired_order(found.rows)]
        heads = ("table", "row", "why", *_HEADS)
        out.print(table("Rows that fired", heads, [(*name, *_figures(group)) for name, group in rows]))
        if found.unused:
            out.print(f"no past firm reached: {', '.join(found.unused)}")
        for reason, count in found.failures.most_common(3):
            out.print(f"{count:,} firms could not be decided: {reason}")
        out.print(found.blindness)
    if refused:
        raise typer.Exit(1)


@app.command("compare", epilog="Example: veilscore policy compare admission new/admission.json --firms past.csv")
def compare(
    champion: PolicyName,
    challenger: Annotated[str, typer.Argument(help="The policy that may take its place, named likewise.")],
    firms: PastOption,
    *,
    label: LabelOption = "default",
    loss_given_default: LossOption = 0.45,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Compare two policies on the same past firms: who would be swapped in and out, and what that costs."""
    from party_bank.policy import backtest  # noqa: PLC0415 - loads the engine

    graphs = [_graph(name, home, federation) for name in (champion, challenger)]
    found = backtest.compare(graphs[0], graphs[1], backtest.read_past(firms, graphs, label=label), loss_given_default)
    out = console()
    for word, graph in zip(("champion", "challenger"), graphs, strict=True):
        out.print(line(f"{word}:", graph.name, f"version {graph.version or 'not filed'},", f"hash {graph.sha256[:16]}"))
    rows = [(one, other, *_figures(group)) for (one, other), group in sorted(found.table.items())]
    out.print(table("Decisions of both", ("champion", "challenger", *_HEADS), rows))
    groups = {
        "approved by the champion": found.champion,
        "approved by the challenger": found.challenger,
        "swapped in": found.swapped_in,
        "swapped out": found.swapped_out,
    }
    out.print(table("Swap set", ("firms that are", *_HEADS), _groups(groups.items())))
    unknown = found.swapped_in.firms - found.swapped_in.known
    out.print(f"{found.blindness} Of those swapped in, {unknown:,} of {found.swapped_in.firms:,} are such firms.")


@app.command(
    "activate", epilog="Example: veilscore policy activate admission.json --author mo --home /srv/bank --as /home/anna"
)
def activate(
    policy: PolicyName,
    *,
    person: Annotated[Path, typer.Option("--as", help="Your own home as a steward: its identity signs.")],
    reason: Annotated[str, typer.Option("--reason", help="Kept with your signature.")] = "",
    author: Annotated[
        str, typer.Option("--author", help="Who wrote it, and may not sign for it; a new one needs it.")
    ] = "",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Sign for a version, filing it if it is new; it decides as soon as a second steward has signed for it."""
    from party_bank.policy.versions import Policies  # noqa: PLC0415 - loads the engine

    bank = find_home(home, federation)
    node, graph = load_node_config(bank), _graph(policy, bank, None)
    if node.role != "bank":
        raise ConfigError(f"{node.name} is a {node.role}: lending policies are a bank's")
    policies = Policies(bank)
    if not author and all(one.sha256 != graph.sha256 for one in policies.versions(graph.name)):
        raise ConfigError(
            f"policy {graph.name!r} is not filed as it is here: say who wrote it with --author NAME, who signs for it "
            "not at all; without a name its author could be one of the two who sign"
        )
    version = policies.file(graph, author)
    found = policies.sign(graph.name, version, identity_of(person), node, load_federation(node.federation), reason)
    console().print(line(f"{found.policy} version {found.version}", f"({found.sha256[:16]})", found.status))


@app.command("price", epilog="Example: veilscore policy price churn.csv --out pricing.json --funding 0.03")
def price(
    churn: Annotated[Path, typer.Argument(help="CSV: annual_rate, and customers lost by grade in churn_GRADE.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="File of the pricing policy.")] = Path("pricing.json"),
    funding: Annotated[float, typer.Option("--funding", help="What the money costs in a year, part of 1.")] = 0.03,
    loss_given_default: LossOption = 0.45,
) -> None:
    """Write a pricing policy: for each grade and risk, the rate of least expected loss after lost customers."""
    from party_bank.policy.graph import parse_graph  # noqa: PLC0415 - loads the engine
    from party_bank.policy.pricing import Terms, pricing_graph, read_churn  # noqa: PLC0415
    from veilscore.files.store import write_atomically  # noqa: PLC0415

    data = pricing_graph(read_churn(churn), Terms(funding, loss_given_default))
    graph = parse_graph(data, out.stem)
    write_atomically(out, lambda file: file.write(data))
    console().print(f"{out}: {len(next(graph.of_kind('decisionTableNode'))['content']['rules'])} rows")


@app.command("show", epilog="Example: veilscore policy show admission --home /srv/bank")
def show(
    policy: PolicyName,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print the graph as the editor of JDM reads it.")] = False,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Show a lending policy: its tables, what its check finds, and who signed for it."""
    show_graph(policy, home, federation, json=json)


def show_graph(policy: str, home: Path | None, federation: Path | None, *, json: bool) -> None:
    """Print a policy."""
    from party_bank.policy.check import check  # noqa: PLC0415 - loads the engine
    from party_bank.policy.versions import Policies  # noqa: PLC0415

    graph, out = _graph(policy, home, federation), console()
    if json:
        typer.echo(graph.canonical.decode())
        return
    _show_head(graph)
    for node in graph.of_kind("decisionTableNode"):
        content = node["content"]
        columns = [*content["inputs"], *content["outputs"]]
        heads = ["row", *(str(one.get("field") or one.get("name")) for one in columns), "why"]
        rows = [
            (number, *(rule.get(one["id"], "") for one in columns), rule.get("_description", ""))
            for number, rule in enumerate(content["rules"], 1)
        ]
        out.print(table(f"{node['name']} (hit policy {content['hitPolicy']})", heads, rows))
    _show_findings(check(graph))
    if graph.version:
        for one in Policies(find_home(home, federation)).versions(graph.name):
            words = "; ".join(f"{w.person} on {moment(w.at_s)}{f', {w.reason}' if w.reason else ''}" for w in one.words)
            out.print(line(f"version {one.version}", f"({one.sha256[:16]})", one.status, f"[{words}]" if words else ""))


_HEADS = ("firms", "known", "bads", "bad rate", "amount", "loss")


def _figures(group: Group) -> tuple[str, ...]:
    rate = "" if group.bad_rate is None else f"{100 * group.bad_rate:.2f}%"
    return (f"{group.firms:,}", f"{group.known:,}", f"{group.bads:,}", rate, f"{group.amount:,.0f}", group.loss)


def _groups(groups: Iterable[tuple[str, Group]]) -> list[tuple[str, ...]]:
    return [(name, *_figures(group)) for name, group in groups]


def _shipped() -> list[str]:
    names = (file.name for file in (files("party_bank.policy") / "graphs").iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def _graph(policy: str, home: Path | None, federation: Path | None) -> Graph:
    """Return the graph that a user names: a file, a version that is filed, the active one, or one that is shipped."""
    from party_bank.policy.graph import load_graph, parse_graph  # noqa: PLC0415 - loads the engine
    from party_bank.policy.versions import Policies  # noqa: PLC0415

    if policy.endswith(".json"):
        return load_graph(Path(policy))
    name, _, number = policy.partition("@")
    if number and not (number.isdecimal() and len(number) < 9):
        raise ConfigError(f"{policy!r}: write NAME@VERSION with a number, such as admission@3")
    if name in _shipped():
        try:
            found = find_home(home, federation)
        except ConfigError:
            found = None
        if found is None or not Policies(found).versions(name):
            return parse_graph((files("party_bank.policy") / "graphs" / f"{name}.json").read_bytes(), name)
    policies = Policies(find_home(home, federation))
    active = [one.version for one in policies.versions(name) if one.active]
    return policies.graph(name, int(number) if number else active[0] if active else None)


def _show_head(graph: Graph) -> None:
    version = f"version {graph.version}" if graph.version else "not filed"
    console().print(styled("[bold]{}[/bold] {}, hash {}", graph.name, version, graph.sha256))


def _show_findings(found: list[PolicyFinding]) -> bool:
    """Show what a check found; return whether the graph is refused."""
    for one in found:
        how = "[red]refused[/red]: {}" if one.refuses else "[yellow]told[/yellow] ({}): {}"
        console().print(styled(how, *([one.sentence] if one.refuses else [one.kind, one.sentence])))
    if not found:
        console().print("no case is missed, no row is in vain, no rows overlap")
    return any(one.refuses for one in found)
