"""Commands that run nodes: node start, stop, status; up and down for a local federation."""

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.connection import Connection, connect, run
from veilscore.cli.display import console, table
from veilscore.errors import JobError, PeerError
from veilscore.node import processes
from veilscore.node.founding import homes_in
from veilscore.node.serve import running_pid, serve
from veilscore.terms.node_config import load_node_config
from veilscore.v1 import control_pb2

node_app = typer.Typer(no_args_is_help=True, help="Start, stop or look at the node of one home.")

Home = Annotated[Path, typer.Argument(help="The node's home: node.yaml, identity/, federation.yaml.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a local federation, as `veilscore init` made it.")]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    panel = "Run nodes"
    app.add_typer(node_app, name="node", rich_help_panel=panel)
    app.command(rich_help_panel=panel, epilog="Example: veilscore up trial")(up)
    app.command(rich_help_panel=panel, epilog="Example: veilscore down trial")(down)


@node_app.command(epilog="Example: veilscore node start /srv/tax --detach")
def start(
    home: Home,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; log in HOME/log.")] = False,
) -> None:
    """Run the node of a home: a bank's, a holder's or the coordinator's, as node.yaml says."""
    if not detach:
        serve(home)
        return
    process = processes.spawn(home)
    run(_until_up({load_node_config(home).name: home}, {home: process}))
    console().print(f"node runs, process {process.pid}; stop it with `veilscore node stop {home}`")


@node_app.command(epilog="Example: veilscore node stop /srv/tax")
def stop(home: Home) -> None:
    """Stop the node of a home; steps under way end, jobs can be resumed."""
    console().print("stopped" if processes.stop(home) else "no node runs on this home")


@node_app.command(epilog="Example: veilscore node status /srv/tax")
def status(home: Home) -> None:
    """Show whether the node runs and which members of its federation answer it."""
    pid = running_pid(home)
    console().print(f"node of {home}: {'does not run' if pid is None else f'runs, process {pid}'}")
    run(_show_members(home))


def up(folder: Folder) -> None:
    """Start every node of a local federation, each a process of its own, and wait until all answer."""
    homes = homes_in(folder)
    started: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        for home in homes.values():
            if running_pid(home) is None:
                started[home] = processes.spawn(home)
        run(_until_up(homes, started))
    except BaseException:
        for process in started.values():
            process.terminate()
        raise
    rows = [(name, load_node_config(home).role, running_pid(home), home) for name, home in homes.items()]
    console().print(table(f"Federation {folder}", ("node", "role", "process", "home"), rows))


def down(folder: Folder) -> None:
    """Stop every node of a local federation; unfinished jobs go on at the next `veilscore up`."""
    homes = homes_in(folder)
    stopped = [name for name, home in reversed(homes.items()) if processes.stop(home)]
    console().print(f"stopped: {', '.join(stopped)}" if stopped else "no node was running")


async def _until_up(homes: dict[str, Path], started: dict[Path, subprocess.Popen[bytes]]) -> None:
    """Wait until every node answers with its own identity; JobError with the last words of one that ended."""
    asking = [asyncio.create_task(_answers(name, home)) for name, home in homes.items()]
    try:
        waiting = set(asking)
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
            for home, process in started.items():
                processes.check_alive(home, process)
            for task in done:
                task.result()
    finally:
        for task in asking:
            task.cancel()


async def _answers(name: str, home: Path) -> None:
    async with connect(home) as connection:
        end = asyncio.get_running_loop().time() + processes.START_S
        while True:
            with contextlib.suppress(PeerError):
                await connection.call(name, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=2)
                return
            if asyncio.get_running_loop().time() > end:
                raise JobError(f"the node of {home} does not answer after {processes.START_S:g} s; see {home}/log")
            await asyncio.sleep(0.1)


async def _show_members(home: Path) -> None:
    async with connect(home) as connection:
        members = [m for m in connection.federation.members if m.address is not None]
        answers = await asyncio.gather(*(_answer(connection, m.name) for m in members))
        rows = [(m.name, m.role, m.address, answer) for m, answer in zip(members, answers, strict=True)]
    console().print(table("Members", ("member", "role", "address", "answer"), rows))


async def _answer(connection: Connection, name: str) -> str:
    try:
        await connection.call(name, "Ping", control_pb2.Empty(), control_pb2.Empty, timeout_s=5)
    except PeerError as error:
        return f"failed: {error.message}"
    return "answers"
