"""The `veilscore` command: one file a noun, loaded when the noun is used.

Each file's `app` is the noun's group of verbs, or has a command of the noun's name. `NOUNS` says what `--help` and
hints need, so that neither loads a file.
Exit codes: 0 done, 1 a job failed, was refused or cancelled, 2 something the user has to correct.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from veilscore import __version__
from veilscore.cli.display import show_error, speak_any_encoding
from veilscore.errors import ConfigError, VeilscoreError
from veilscore.files.private import keep_private

_DEBUG = "VEILSCORE_DEBUG"


class Noun(NamedTuple):
    """Describes a word after `veilscore`: its line in `--help`, its verbs if any, its file if that has another name."""

    line: str
    verbs: str = ""
    file: str = ""


PANELS = {
    "Set up": {
        "explain": Noun("Explain every key of job files, node.yaml and federation.yaml."),
        "simulate": Noun("Make realistic data of small firms for a trial, with known true effects."),
        "init": Noun("Set up a whole federation on this machine, for trials.", file="federation"),
        "identity": Noun("Make or show a node's identity (key and certificate).", "create show"),
        "federation": Noun("Make or check federation.yaml.", "add check"),
        "join": Noun(
            "Found a federation across organisations, or join one, each on its own machine.",
            "request propose sign take move show",
        ),
        "example": Noun("Print an example job, copy an example data set to a folder, or list what there is."),
        "keys": Noun("Replace, revoke and look after keys.", "show check rotate revoke replace recover take"),
    },
    "Run nodes": {
        "up": Noun("Start every node of a local federation and wait until all answer.", file="node"),
        "down": Noun("Stop every node of a local federation; jobs go on at the next `veilscore up`.", file="node"),
        "node": Noun("Start, stop or look at the node of one home.", "start stop mend status health"),
        "door": Noun("How loan systems reach a bank's node: who may call, and how.", "add list remove openapi"),
        "console": Noun(
            "Serve a node's pages to its own people, over TLS, until it is stopped.", "invite vouch forget people"
        ),
        "backup": Noun("Save everything a node keeps, encrypted, while the node runs or not."),
        "restore": Noun("Restore a home from its backup, and verify every file, the log and the state.", file="backup"),
    },
    "Jobs": {
        "job": Noun(
            "Plan, run, watch and resume jobs; decide on those proposed to your party.",
            "plan run watch list show cancel resume inbox approve reject",
        ),
        "decide": Noun("Decide on one firm now: the step of a filed decision, and not the scores behind it."),
        "score": Noun("Score one firm now: points, band, probability of default, status of every party, reasons."),
        "sandbox": Noun(
            "Run a modeller's code at the owner of the data; only approved outputs leave.",
            "submit fetch show approve reject run outputs release syft-pack syft-receive syft-return syft-read "
            "mock-data",
        ),
    },
    "Models and reports": {
        "model": Noun(
            "Look at, export and import models, and go back to earlier versions.",
            "list show export import versions rollback",
        ),
        "decision": Noun(
            "Check decisions before they are filed, and look at those that are.", "check list show rollback"
        ),
        "screening": Noun("Look at what a screening job found.", "show"),
        "report": Noun("Complete a finished job's report with times and bytes, and say where it is."),
        "section": Noun(
            "A holder's section of a credit report: what it may tell, write it, count it.", "fields write told"
        ),
    },
    "The bank": {
        "bank": Noun(
            "The bank's book, portraits, limits, campaigns, applications, renewals and recurring work.",
            "mining book portrait limits campaign application contract renewal report warning portal due",
        ),
    },
    "Trust": {
        "policy": Noun(
            "Who may ask this party for what, and how much it lets out; a bank's lending policies.",
            "show check list test compare activate price",
        ),
        "consent": Noun("Consent of firms: issue, revoke, list, import.", "keygen issue revoke list import"),
        "basis": Noun(
            "Two stewards answer for a proactive campaign, in place of single consents.", "sign file list withdraw"
        ),
        "account": Noun(
            "What each bank was told of each data set, as mu of Gaussian differential privacy.", "show firm"
        ),
        "firm": Noun("What a node keeps of one firm, and its deletion on request.", "forget"),
        "retention": Noun(
            "Remove what a node has kept for long enough (`retention` in node.yaml and bank.yaml).", "show run"
        ),
        "features": Noun("Make variables of event tables, at their owner.", "plan build describe check"),
        "dataset": Noun(
            "How data sets are read, what holders publish of them, and their fixed bins.", "bins describe publish show"
        ),
    },
    "Evidence": {
        "evidence": Noun("Logs, receipts and their verification.", "log usage receipt verify verify-log anchor"),
        "audit": Noun("Audit a random sample of a bank's steps against what it had committed to.", "export delete"),
    },
}
NOUNS = {word: noun for nouns in PANELS.values() for word, noun in nouns.items()}
RETIRED = NOUNS["job"].verbs.split()  # until 0.1 these stood alone: `veilscore run`; the next release drops them
_VERBS = {verb: f"{word} {verb}" for word, noun in reversed(NOUNS.items()) for verb in noun.verbs.split()}
_VERBS |= {verb: f"job {verb}" for verb in RETIRED}


def load(word: str) -> Any:
    """Import the file of a noun and return its group or command."""
    group = typer.main.get_group(importlib.import_module(f"veilscore.cli.{NOUNS[word].file or word}").app)
    command = group.commands.get(word, group)
    command.help = command.help or NOUNS[word].line
    return command


def _unknown(said: str, known: Mapping[str, str]) -> ConfigError:
    """Return an error that names the nearest of the `known` words, each with what to type after `veilscore`."""
    *before, word = said.split(" ")
    near = difflib.get_close_matches(word, known, n=1)
    listed = " ".join(["veilscore", *before, "--help"])
    hint = f"did you mean `veilscore {known[near[0]]}`?" if near else f"`{listed}` lists what there is"
    return ConfigError(f"`veilscore {said[:60]}` is unknown; {hint}")


class Nouns(TyperGroup):
    """Lists all nouns, each a stand-in with its line until it is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for panel, nouns in PANELS.items():
            for word, noun in nouns.items():
                self.commands[word] = TyperCommand(word, help=noun.line, rich_help_panel=panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Load the noun that `args` begin with; ConfigError names the nearest one if there is no such noun or verb."""
        word, *rest = args
        if word in RETIRED:
            if not ctx.resilient_parsing:
                typer.echo(f"`veilscore {word}` is now `veilscore job {word}`; type that from now on", err=True)
            word, rest = "job", args
        if word not in NOUNS:
            if ctx.resilient_parsing:  # the shell completes a line that is not finished
                return None, None, rest
            raise _unknown(word, _VERBS | {noun: noun for noun in NOUNS})
        command = load(word)
        verbs = {verb: f"{word} {verb}" for verb in getattr(command, "commands", ())}
        if verbs and rest and rest[0] not in verbs and not rest[0].startswith("-") and not ctx.resilient_parsing:
            raise _unknown(f"{word} {rest[0]}", _VERBS | verbs)
        return word, command, rest


app = typer.Typer(
    name="veilscore",
    cls=Nouns,
    help=(
        "Banks and outside data holders score firms together; raw data never leaves its owner.\n\n"
        "A trial on one machine, three parties and a coordinator, each a process of its own:\n\n"
        "  veilscore simulate trial/data --firms 20000 --seed 1\n\n"
        "  veilscore init trial --data trial/data --party bank:bank --party tax:holder --party registry:holder\n\n"
        "  veilscore up trial\n\n"
        "  veilscore job plan job.yaml --federation trial\n\n"
        "  veilscore job run job.yaml --federation trial\n\n"
        "  veilscore down trial"
    ),
    epilog="Every command has its own --help with an example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(value: bool) -> None:  # noqa: FBT001 - signature of a typer callback
    if value:
        typer.echo(f"veilscore {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=_DEBUG, help="Show the traceback of an error, for a bug report.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ[_DEBUG] = "1"


def main() -> None:
    """Run the command; an error becomes one panel, or one line where there is no terminal, and exit code 2."""
    keep_private()
    speak_any_encoding()
    try:
        app()
    except BrokenPipeError:  # `veilscore job list | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit fails again
        sys.exit(1)
    except (VeilscoreError, OSError) as error:
        if os.environ.get(_DEBUG):
            raise
        if isinstance(error, VeilscoreError):
            show_error(type(error).__name__, str(error))
        else:  # of a file or socket that no sentence of ours foresaw
            what = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
            show_error(type(error).__name__, f"{what}: {error.strerror}" if what else str(error))
        sys.exit(2)
