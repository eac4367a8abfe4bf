"""`veilscore explain`: every key of the files that people write, on the terminal or as docs/reference.md."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table

from veilscore.cli.display import console, styled
from veilscore.cli.reference import Section, everything, sections
from veilscore.errors import ConfigError
from veilscore.terms.job import known_tasks
from veilscore.terms.parameters import PARAMETERS
from veilscore.terms.roles import Learned

app = typer.Typer()
_HEAD = """# Reference
Every key of the files that people write. Unknown keys are refused, and the nearest known one is named. A *name* is a
small letter and up to 39 small letters, digits, `-` and `_`. `veilscore explain` shows the same on a terminal, and
`veilscore explain --markdown > docs/reference.md` writes this page; a test holds it against the code.
"""


_LEARNED = """
Beyond its own data, by honest execution. *How much* bounds what the bank learns of one firm's record at one holder
(docs/protocols/disclosure.md): mu and mu add as the root of their squares, training and hold-out rows apart; *all* has
no bound.
"""
_NEEDED = {"model", "bands", "columns", "decision"}  # parameters that do not change who learns what
_ONLINE: tuple[Literal["score", "band", "exact", "decision"], ...] = ("score", "band", "exact", "decision")
_DECISION = {
    "name": "limit",
    "purpose": "proactive",
    "steps": [1, 2],
    "measures": {"risk": {"model": "card", "cutoffs": [560, 600]}},
    "knock_outs": [{"party": "tax", "column": "late_filings", "above": 3}],
}
_SHOWN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("train_scorecard", {"disclosure": "private"}),
    ("train_scorecard", {"disclosure": "exact"}),
    ("train_boosting", {"disclosure": "private"}),
    ("train_boosting", {"disclosure": "exact"}),
    ("train_stack", {"disclosure": "private"}),
    ("train_stack", {"disclosure": "exact"}),
    ("screen_features", {"disclosure": "private"}),
    ("screen_features", {"disclosure": "exact"}),
    ("mine_rules", {}),
    ("score_batch", {"model": "card"}),
    ("score_batch", {"model": "card", "output": "exact"}),
    ("decide", {"decision": "limit", "outcomes": 8}),
    ("decide", {"decision": "alarm", "watch": True, "outcomes": 3}),
    ("size_decision", {"decision": "limit"}),
    ("score_batch", {"model": "card", "output": "band", "bands": {"A": 600, "B": 550, "C": 500}}),
    ("write_model", {"columns": {"tax": {"turnover": {"edges": [0], "points": [0, 1]}}}}),
    ("file_decision", {"decision": _DECISION}),
)


@app.command(no_args_is_help=True, epilog="Example: veilscore explain job train_scorecard")
def explain(
    subject: Annotated[
        Literal["job", "policy", "node", "dataset", "catalogue", "federation"] | None,
        typer.Argument(
            help="job file, policy, node.yaml, an entry of its datasets, a catalogue of variables, or federation.yaml."
        ),
    ] = None,
    task: Annotated[str | None, typer.Argument(help="With job: a task, to see its parameters.")] = None,
    *,
    markdown: Annotated[bool, typer.Option("--markdown", help="All of it as a Markdown page.")] = False,
) -> None:
    """Explain every key of job files, node.yaml and federation.yaml.

    For each its type, default, meaning, and an example.
    """
    if markdown != (subject is None):
        raise ConfigError(
            "say what to explain (job, policy, node, dataset, catalogue or federation), or --markdown for all"
        )
    if subject is None:
        typer.echo(page())
        return
    out = console()
    for section in sections(subject, task):
        out.print(styled("\n[bold]{}[/bold]: {}", section.title, section.about))
        out.print(_table(section))
    if subject == "job" and task is None:
        out.print(f"Parameters: `veilscore explain job TASK`, TASK being one of {', '.join(known_tasks())}")


def page() -> str:
    """Return docs/reference.md."""
    parts = [_HEAD]
    for subject, found in everything():
        parts.append(f"\n## {subject}\n")
        for section in found:
            parts.append(f"\n### {section.title}\n{section.about}\n\n")
            parts += _rows([("key", "type", "default", "meaning", "example"), ("---",) * 5])
            parts += _rows(
                (f"`{key.name}`", key.type, key.default, key.meaning, f"`{key.example}`") for key in section.keys
            )
    parts.append(f"\n## Who learns what, and how much of a firm\n{_LEARNED}")
    for title, rows in _learned():
        parts.append(f"\n### {title}\n\n")
        parts += _rows([("step", "bank", "how much of a firm", "a holder", "coordinator"), ("---",) * 5])
        parts += _rows((row.step, row.bank, row.how_much, row.holder or "nothing", row.coordinator) for row in rows)
    return "".join(parts).rstrip()


def _learned() -> Iterable[tuple[str, Iterable[Learned]]]:
    """Return the tables of who learns what: of tasks with usual parameters, and of single firms online."""
    from veilscore.tasks.table import leakage_table, online_table  # noqa: PLC0415 - loads every protocol

    for task, changes in _SHOWN:
        said = ", ".join(f"{name}: {value}" for name, value in changes.items() if name not in _NEEDED)
        yield f"`{task}`" + f", `{said}`" * bool(said), leakage_table(PARAMETERS[task].model_validate(changes))
    for opens in _ONLINE:
        yield f"one firm online, `output: {opens}`", [online_table(opens)]


def _rows(rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows]


def _table(section: Section) -> Table:
    """Return a table of three columns, so that 80 characters are enough."""
    table = Table(box=box.SIMPLE_HEAD, expand=False, pad_edge=False, show_edge=False)
    table.add_column("key", no_wrap=True, style="bold")
    table.add_column("type, default", overflow="fold", ratio=2)
    table.add_column("meaning, example", overflow="fold", ratio=3)
    for key in section.keys:
        default = key.default if key.default == "required" else f"default {key.default}"
        table.add_row(key.name, f"{key.type}\n{default}", styled("{}\n[cyan]{}[/cyan]", key.meaning, key.example))
        table.add_row()
    return table
