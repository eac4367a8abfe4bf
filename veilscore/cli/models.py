"""Commands about what is kept: model list, show, export, import; report; backup."""

import io
import tarfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from veilscore.cli.connection import connect, find_home, run
from veilscore.cli.display import console, table
from veilscore.cli.jobs import FederationOption, HomeOption, JobText
from veilscore.errors import ConfigError, JobError, StateError
from veilscore.modelling.model import load_model
from veilscore.node.policy import load_node_config
from veilscore.node.store import write_atomically
from veilscore.v1 import control_pb2

ModelName = Annotated[str, typer.Argument(help="Name of the model: the name of the job that trained it.")]
PartyOption = Annotated[str | None, typer.Option("--party", help="With --federation: whose home; default the bank's.")]
_BACKED_UP = ("node.yaml", "federation.yaml", "identity", "models", "state")

model_app = typer.Typer(no_args_is_help=True, help="Look at, export and import scorecards.")


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    panel = "Models and reports"
    app.add_typer(model_app, name="model", rich_help_panel=panel)
    app.command(rich_help_panel=panel, epilog="Example: veilscore report --federation trial --party tax")(report)
    app.command(rich_help_panel=panel, epilog="Example: veilscore backup tax.tar.gz --home /srv/tax")(backup)


@model_app.command("list", epilog="Example: veilscore model list --federation trial")
def list_models(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """List the bank's models."""
    folder = find_home(home, federation) / "models"
    models = [load_model(path) for path in sorted(folder.glob("*/model.json"))]
    rows = [(m.name, m.version, m.sha256.hex()[:16], m.provenance.trained_at, m.provenance.purpose) for m in models]
    console().print(table(str(folder), ("model", "version", "hash", "trained", "purpose"), rows))


@model_app.command("show", epilog="Example: veilscore model show joint-scorecard --federation trial")
def show_model(name: ModelName, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Show a scorecard: coefficients, IV and points of every column, scaling, bands, provenance."""
    model = load_model(_file(find_home(home, federation), name))
    out, d = console(), model.scaling.decimals
    units = model.scaling.units
    out.print(f"[bold]{escape(model.name)}[/bold] version {model.version}, hash {model.sha256.hex()}")
    rows = []
    for part in model.parts:
        for column in part.columns:
            low, high = min(column.points) / units, max(column.points) / units
            rows.append(
                (
                    part.party,
                    column.name,
                    f"{column.iv:.3f}",
                    "left out: " + column.left_out if column.coefficient is None else f"{column.coefficient:.4f}",
                    "" if column.standard_error is None else f"{column.standard_error:.4f}",
                    f"{low:.{d}f} to {high:.{d}f}",
                )
            )
    out.print(table("Columns", ("party", "column", "IV", "coefficient", "standard error", "points"), rows))
    s, p = model.scaling, model.provenance
    facts = [
        ("base points", f"{model.base_points / units:.{d}f}"),
        ("scaling", f"{s.base_score:g} points at odds {s.base_odds:g}:1, {s.pdo:g} points double the odds"),
        ("bands", ", ".join(f"{name} from {score:g}" for name, score in model.bands.items()) or "none"),
        ("trained", f"{p.trained_at} by job {p.job_id}, veilscore {p.veilscore}, purpose: {p.purpose}"),
        ("rows", f"{p.n_train} trained, {p.n_holdout} held out"),
        ("gradients opened", f"{p.n_openings}, {'converged' if p.converged else 'NOT converged'}"),
        ("code maps", ", ".join(f"{part.party} {part.map_sha256[:16]}" for part in model.parts)),
    ]
    out.print(table("Facts", ("what", "value"), facts))


@model_app.command("export", epilog="Example: veilscore model export joint-scorecard scorecard.json --home /srv/bank")
def export_model(
    name: ModelName,
    file: Annotated[Path, typer.Argument(help="JSON file to write.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write the bank's part of a model with its hash; the meaning of the holders' bins stays with them."""
    model = load_model(_file(find_home(home, federation), name))
    console().print(f"{model.save(file)}, hash {model.sha256.hex()}")


@model_app.command("import", epilog="Example: veilscore model import scorecard.json --home /srv/bank")
def import_model(
    file: Annotated[Path, typer.Argument(help="JSON file written by `veilscore model export`.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Take in an exported model after checking its hash; an existing model of that name is not replaced."""
    model = load_model(file)
    target = find_home(home, federation) / "models" / model.name / "model.json"
    if target.exists():
        raise ConfigError(f"{target} exists already; remove it first if the imported one is to replace it")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    model.save(target)
    if not (target.parent / "code_map.json").exists():
        console().print(f"[yellow]put the bank's code map beside it before scoring: {target.parent / 'code_map.json'}")
    console().print(f"{model.name} version {model.version}, hash {model.sha256.hex()}")


def report(
    job: JobText = None,
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = False,
) -> None:
    """Complete a finished job's report with times and bytes, and say where it is."""
    from veilscore.reports.report import Cost  # noqa: PLC0415 - loads matplotlib, slow
    from veilscore.reports.write import add_costs  # noqa: PLC0415

    info = run(_info(job, find_home(home, federation)))
    costs = [
        Cost(step=s.step, party=p, seconds=d.seconds, bytes_sent=d.bytes_sent, cpu_seconds=d.cpu_seconds)
        for s in info.steps
        for p, d in sorted(s.party_done.items())
    ]
    folder = find_home(home, federation, party) / "jobs" / info.job_id
    if not (folder / "report.json").is_file():
        raise JobError(f"no report in {folder}: reports are written when a training job is done; it is {info.status}")
    page = add_costs(folder / "report.json", costs)
    console().print(f"report: {page.resolve()}")
    if browser:
        webbrowser.open(page.resolve().as_uri())


def backup(
    file: Annotated[Path, typer.Argument(help="New .tar.gz file; it holds keys and maps, so keep it safe.")],
    *,
    home: HomeOption = None,
    federation: FederationOption = None,
    party: PartyOption = None,
) -> None:
    """Save a node's identity, configuration, state and models with their code maps.

    Without its code map a holder's part of a model cannot be applied any more. Restore by unpacking into a new home.
    """
    source = find_home(home, federation, party)
    if file.exists():
        raise StateError(f"{file} exists already; choose a new name, so that no older backup is lost")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in _BACKED_UP:
            if (source / name).exists():
                archive.add(source / name, arcname=f"{load_node_config(source).name}/{name}")
    write_atomically(file, lambda target: target.write(content.getvalue()))
    console().print(f"{file}: {', '.join(n for n in _BACKED_UP if (source / n).exists())} of {source}")


def _file(home: Path, name: str) -> Path:
    return home / "models" / name / "model.json"


async def _info(job: str | None, home: Path) -> control_pb2.JobInfo:
    async with connect(home) as connection:
        ref = control_pb2.JobRef(job_id=await connection.job_id(job))
        return await connection.coordinator("Show", ref, control_pb2.JobInfo)
