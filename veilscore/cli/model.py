"""`veilscore model`: look at, export and import what training jobs filed."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from veilscore.cli.display import console, moment, styled, table
from veilscore.cli.homes import FederationOption, HomeOption, PartyOption, find_home
from veilscore.errors import ConfigError
from veilscore.files.private import private_folder
from veilscore.files.store import write_atomically
from veilscore.models.boosted import Boosted, Stacked
from veilscore.models.chained import Chained
from veilscore.models.decided import FILE as DECISION
from veilscore.models.decided import FiledDecision
from veilscore.models.filed import load_model
from veilscore.models.hand_written import HandWritten
from veilscore.models.importance import importance
from veilscore.models.model import ScoreModel
from veilscore.models.versions import roll_back, versions

ModelName = Annotated[str, typer.Argument(help="Name of the model: the name of the job that trained it.")]

app = typer.Typer(no_args_is_help=True)


@app.command("list", epilog="Example: veilscore model list --federation trial")
def list_models(*, home: HomeOption = None, federation: FederationOption = None) -> None:
    """List the bank's models and decisions."""
    folder = find_home(home, federation) / "models"
    models = [load_model(path) for path in sorted(folder.glob("*/model.json"))]
    rows = [
        (m.name, _kind(m), m.version, m.sha256.hex()[:16], m.provenance.trained_at, m.provenance.purpose)
        for m in models
    ]
    for path in sorted(folder.glob(f"*/{DECISION}")):
        filed = FiledDecision.load(path.parent)
        rows.append((filed.decision.name, "decision", "", filed.sha256.hex()[:16], "", filed.decision.purpose))
    console().print(table(str(folder), ("model", "kind", "version", "hash", "trained", "purpose"), rows))


@app.command("show", epilog="Example: veilscore model show joint-scorecard --federation trial")
def show_model(name: ModelName, *, home: HomeOption = None, federation: FederationOption = None) -> None:
    """Show a model: what every column brings, scaling, bands, provenance."""
    own = find_home(home, federation)
    if (own / "models" / name / DECISION).is_file():
        raise ConfigError(f"{name} is a decision: `veilscore decision show {name}`")
    model = load_model(_file(own, name))
    out, d = console(), model.scaling.shown_decimals
    units = model.scaling.units
    out.print(styled("[bold]{}[/bold] version {}, hash {}", model.name, model.version, model.sha256.hex()))
    if isinstance(model, Boosted):
        _show_trees(out, model)
        return
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
    p = model.provenance
    opened = ("gradients opened", f"{p.n_openings}, {'converged' if p.converged else 'NOT converged'}")
    out.print(table("Facts", ("what", "value"), [*_facts(model), opened]))


def _kind(model: ScoreModel) -> str:
    if isinstance(model, Stacked):
        return "stack"
    if isinstance(model, Chained):
        return "private trees"
    if isinstance(model, HandWritten):
        return "hand-written"
    return "boosted trees" if isinstance(model, Boosted) else "scorecard"


def _facts(model: ScoreModel) -> list[tuple[str, str]]:
    """Return what every kind of model states about itself."""
    s, p = model.scaling, model.provenance
    scaling = f"{s.base_score:g} points at odds {s.base_odds:g}:1, {s.pdo:g} points double the odds"
    if isinstance(model, HandWritten):
        scaling = f"hand-written in units of {1 / s.units:g}; no odds"
    return [
        ("base points", f"{model.base_points / s.units:.{s.shown_decimals}f}"),
        ("scaling", scaling),
        ("bands", ", ".join(f"{name} from {score:g}" for name, score in model.bands.items()) or "none"),
        ("trained", f"{p.trained_at} by job {p.job_id}, veilscore {p.veilscore}, purpose: {p.purpose}"),
        ("rows", f"{p.n_train} trained, {p.n_holdout} held out"),
        ("code maps", ", ".join(f"{part.party} {part.map_sha256[:16]}" for part in model.parts)),
    ]


def _show_trees(out: Console, model: Boosted) -> None:
    """Print the importance of columns, trees by holder, and the hashes of the holders' parts."""
    if isinstance(model, Stacked):
        weights = [(member.name, member.kind, f"{member.weight:.4f}") for member in model.members]
        out.print(table("Members of the stack", ("member", "kind", "weight of its log-odds"), weights))
    rows = [
        (item.party, item.column, f"{item.gain:.1%}", f"{item.cover:.1f}", str(item.n_splits))
        for item in importance(model)
    ]
    out.print(table("Columns by gain", ("party", "column", "gain", "mean cover", "splits"), rows))
    parts = [
        (
            holder,
            str(len(model.chains[holder] if isinstance(model, Chained) else model.trees_of(holder))),
            str(sum(len(t.holder_splits) for t in model.parts_of(holder))),
            digest,
        )
        for holder, digest in model.holder_sha256.items()
    ]
    out.print(table("Trees", ("with", "trees", "splits of it", "hash of its part"), parts))
    told = "of leaves, as they are"
    if isinstance(model, Chained):
        told = f"of leaves, with noise: mu {model.parameters['mu']:g}"
    opened = ("opened sums", told)
    out.print(table("Facts", ("what", "value"), [*_facts(model), opened]))


@app.command("export", epilog="Example: veilscore model export joint-scorecard scorecard.json --home /srv/bank")
def export_model(
    name: ModelName,
    file: Annotated[Path, typer.Argument(help="File to write.")],
    *,
    format: Annotated[  # noqa: A002 - the word that users expect
        Literal["model", "json", "onnx", "pmml"],
        typer.Option(
            "--format",
            help="model: for `model import`; json, onnx, pmml: the bank's part, in real values of its own columns.",
        ),
    ] = "model",
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Write the bank's part of a model with its hash; the meaning of the holders' bins stays with them."""
    home = find_home(home, federation)
    model = load_model(_file(home, name))
    if format == "model":
        model.save(file)
    else:
        _export_part(home, model, file, format)
    console().print(f"{file}, hash {model.sha256.hex()}")


def _export_part(home: Path, model: ScoreModel, file: Path, form: Literal["json", "onnx", "pmml"]) -> None:
    """Write the bank's part for its validators and other programs."""
    from veilscore.models.exports import exported  # noqa: PLC0415 - needed here only
    from veilscore.tasks.context import load_code_map  # noqa: PLC0415

    data = exported(model, load_code_map(home / "models", model.name), form)
    write_atomically(file, lambda target: target.write(data))


@app.command("import", epilog="Example: veilscore model import scorecard.json --home /srv/bank")
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
    private_folder(target.parent)
    model.save(target)
    if not (target.parent / "code_map.json").exists():
        console().print(
            styled(
                "[yellow]put the bank's code map beside it before scoring: {}[/yellow]", target.parent / "code_map.json"
            )
        )
    console().print(f"{model.name} version {model.version}, hash {model.sha256.hex()}")


@app.command("versions", epilog="Example: veilscore model versions joint-scorecard --home /srv/tax")
def show_versions(
    name: ModelName, *, home: HomeOption = None, federation: FederationOption = None, party: PartyOption = None
) -> None:
    """List the versions of a model that this party filed, and which one is in use."""
    rows = [
        (one.job_id, moment(one.filed_s), "in use" if one.in_use else "", _hash_of(one.folder))
        for one in versions(find_home(home, federation, party), name)
    ]
    if not rows:
        raise ConfigError(f"no version of {name[:60]!r} was filed here; `veilscore model list` shows a bank's models")
    console().print(table(f"Versions of {name}", ("job", "filed", "", "hash of the model"), rows))


def _hash_of(folder: Path) -> str:
    """Return the hash of the bank's model; a holder keeps its part alone."""
    path = folder / "model.json"
    return load_model(path).sha256.hex()[:16] if path.is_file() else ""


@app.command("rollback", epilog="Example: veilscore model rollback joint-scorecard --home /srv/bank")
def rollback(
    name: ModelName,
    *,
    to: Annotated[str | None, typer.Option("--to", help="Id of the job whose version; default the one before.")] = None,
    home: HomeOption = None,
    federation: FederationOption = None,
) -> None:
    """Put an earlier version of a model to use at the bank; holders keep all and answer by the one that it names."""
    done = roll_back(find_home(home, federation), name, to)
    console().print(
        f"{name}: the version of {done.job_id} is in use, hash {_hash_of(done.folder) or 'none'}",
        soft_wrap=True,
    )


def _file(home: Path, name: str) -> Path:
    return home / "models" / name / "model.json"
