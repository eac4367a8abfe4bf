"""Nodes: `veilscore node` for one home, `up` and `down` for a local federation."""

import asyncio
import contextlib
import importlib
import json
import shlex
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.connection import Connection, connect, reach
from veilscore.cli.display import console, styled, table
from veilscore.errors import ConfigError, JobError, PeerError, VeilscoreError
from veilscore.fabric.process import Service, running_pid, serve
from veilscore.node import processes, state
from veilscore.node.founding import homes_in
from veilscore.terms.federation import load_federation
from veilscore.terms.node_config import load_node_config
from veilscore.v1 import control_pb2

app = typer.Typer()
node_app = typer.Typer(no_args_is_help=True)
app.add_typer(node_app, name="node")

Home = Annotated[Path, typer.Argument(help="The node's home: node.yaml, identity/, federation.yaml.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a local federation, as `veilscore init` made it.")]
Wait = Annotated[
    float, typer.Option(min=1, envvar="VEILSCORE_START_S", help="Seconds to wait until every node answers.")
]
_SAY_EVERY_S = 5.0
_ANSWERS = "answers"
# Named as text and imported when a node starts: the command needs no institution but the one that it runs.
_SERVED = {
    "bank": "veilscore.sandbox.reception:open_node",
    "holder": "veilscore.sandbox.reception:open_node",
    "coordinator": "coordinator.service:Coordinator",
}


def open_node(home: Path) -> Service:
    """Return the node or coordinator of a home, by its role in node.yaml; ConfigError for an operator's home."""
    role = load_node_config(home).role
    if role not in _SERVED:
        raise ConfigError(f"{home} is an {role}'s home: it commands nodes and runs none")
    from veilscore.node.watched import WatchedNode  # noqa: PLC0415 - loads what a node needs and the command does not

    module, _, name = _SERVED[role].partition(":")
    return WatchedNode(getattr(importlib.import_module(module), name)(home))


@node_app.command(epilog="Example: veilscore node start /srv/tax --detach")
def start(
    home: Home,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; log in HOME/log.")] = False,
    wait: Wait = processes.START_S,
) -> None:
    """Run the node of a home: a bank's, a holder's or the coordinator's, as node.yaml says."""
    if not detach:
        serve(home, open_node)
        return
    process = processes.spawn(home)
    asyncio.run(_until_up({load_node_config(home).name: home}, {home: process}, wait))
    console().print(f"node runs, process {process.pid}; stop it with `veilscore node stop {shlex.quote(str(home))}`")


@node_app.command(epilog="Example: veilscore node stop /srv/tax")
def stop(home: Home) -> None:
    """Stop the node of a home; steps under way end, jobs can be resumed."""
    console().print("stopped" if processes.stop(home) else "no node runs on this home")


@node_app.command(epilog="Example: veilscore node mend /srv/tax")
def mend(
    home: Home,
    *,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on without what neither log nor backup holds.")
    ] = False,
    let_go: Annotated[
        list[str] | None,
        typer.Option("--let-go", help="Another member that lost the end of its log: let it go on from an older copy."),
    ] = None,
) -> None:
    """Write back from the log what lost or older state files lack, where no backup is as new; the log says so."""
    done = state.mend(home.resolve(), accept_loss=accept_loss, let_go=let_go or ())
    console().print("\n".join(done) or "nothing is missing", soft_wrap=True)


@node_app.command(epilog="Example: veilscore node status /srv/tax")
def status(home: Home) -> None:
    """Show whether the node runs and which members of its federation answer it."""
    pid = running_pid(home)
    console().print(f"node of {home}: {'does not run' if pid is None else f'runs, process {pid}'}")
    reach(home, _show_members)


@node_app.command(epilog="Example: veilscore node health /srv/tax --json")
def health(
    home: Home,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, for machines.")] = False,
) -> None:
    """Tell whether the node answers and what an operator should look at; exit code 1 where it does not do its work.

    For health checks of service managers: asks this node alone, not its federation.
    """
    from veilscore.node.health import findings  # noqa: PLC0415 - loads the log's own modules

    config = load_node_config(home)
    answer, clocks = ("does not run", {}) if running_pid(home) is None else reach(home, _pulse)
    found = findings(home, config, load_federation(config.federation), clocks)
    fine = answer == _ANSWERS and not any(one.critical for one in found)
    told = [one.plain for one in found]
    if as_json:
        typer.echo(json.dumps({"node": config.name, "healthy": fine, "answer": answer, "look_at": told}))
    else:
        console().print(styled("[bold]{}[/bold] {}: {}", config.name, answer, "healthy" if fine else "not healthy"))
        for text in told:
            console().print(f"- {text}", markup=False)
    if not fine:
        raise typer.Exit(1)


@app.command(epilog="Example: veilscore up trial")
def up(folder: Folder, *, wait: Wait = processes.START_S) -> None:
    """Start every node of a local federation and wait until all answer.

    Each is a process of its own.
    """
    homes = homes_in(folder)
    started: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        for home in homes.values():
            if running_pid(home) is None:
                started[home] = processes.spawn(home)
        asyncio.run(_until_up(homes, started, wait))
    except BaseException:  # also Ctrl-C: no node stays behind
        for process in started.values():
            process.terminate()
        raise
    rows = [(name, load_node_config(home).role, running_pid(home), home) for name, home in homes.items()]
    console().print(table(f"Federation {folder}", ("node", "role", "process", "home"), rows))


@app.command(epilog="Example: veilscore down trial")
def down(folder: Folder) -> None:
    """Stop every node of a local federation; jobs go on at the next `veilscore up`."""
    homes = homes_in(folder)
    stopped = processes.stop(*homes.values())
    names = [name for name, home in homes.items() if home in stopped]
    console().print(f"stopped: {', '.join(names)}" if stopped else "no node was running")


async def _until_up(homes: dict[str, Path], started: dict[Path, subprocess.Popen[bytes]], wait_s: float) -> None:
    """Wait until every node answers with its own identity, and say now and then which do not.

    Raises JobError with the last words of one that ended, or where some do not answer within `wait_s`.
    """
    asking = {asyncio.create_task(_answers(name, home)): home for name, home in homes.items()}
    began = told = time.monotonic()
    try:
        waiting = set(asking)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
            for home, process in started.items():
                processes.check_alive(home, process)
            for task in done:
                task.result()
            now = time.monotonic()
            late = "; ".join(processes.waits_for(home) for task, home in asking.items() if task in waiting)
            if waiting and now - began > wait_s:
                raise JobError(
                    f"after {wait_s:g} s: {late}. See console.log and node.log in HOME/log; on a busy machine wait "
                    "longer, with --wait SECONDS"
                )
            if waiting and now - told > _SAY_EVERY_S:
                told = now
                console(stderr=True).print(f"waiting, {now - began:.0f} of {wait_s:g} s: {late}", soft_wrap=True)
    finally:
        for task in asking:
            task.cancel()


async def _answers(name: str, home: Path) -> None:
    async with connect(home) as connection:
        while True:
            with contextlib.suppress(PeerError):
                await connection.call(name, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=2)
                return
            await asyncio.sleep(0.1)


async def _show_members(connection: Connection) -> None:
    members = [connection.federation.member(m.name) for m in connection.federation.members if m.address is not None]
    answers = await asyncio.gather(*(_answer(connection, m.name) for m in members))
    rows = [(m.name, m.role, m.address, answer) for m, answer in zip(members, answers, strict=True)]
    console().print(table("Members", ("member", "role", "address", "answer"), rows))


async def _pulse(connection: Connection) -> tuple[str, dict[str, float]]:
    """Return whether the own node answers, and how far it found others' clocks ahead."""
    from veilscore.evidence.console_acts import METHOD, Pulse  # noqa: PLC0415 - loads the log's own modules

    try:
        ask = control_pb2.EvidenceCall(ask="pulse")
        reply = await connection.call(connection.name, METHOD, ask, control_pb2.EvidenceReply, timeout_s=5)
    except VeilscoreError as error:
        return f"failed: {error.message}", {}
    return _ANSWERS, Pulse.model_validate_json(reply.body).clocks


async def _answer(connection: Connection, name: str) -> str:
    try:
        await connection.call(name, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=5)
    except PeerError as error:
        return f"failed: {error.message}"
    return _ANSWERS
