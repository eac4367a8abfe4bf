"""The command `example`: jobs and data that come with the package."""

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from veilscore.cli.display import console, table
from veilscore.errors import ConfigError, StateError
from veilscore.terms.example_jobs import about_example, example_jobs

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

Name = Annotated[str, typer.Argument(help="A job or a data set; without it, all are listed.")]
Target = Annotated[Path | None, typer.Argument(help="Folder to copy a data set to; it must not exist.")]


app = typer.Typer()


@app.command(epilog="Example: veilscore example scorecard > job.yaml")
def example(name: Name = "", target: Target = None) -> None:
    """Print an example job, copy an example data set to a folder, or list what there is."""
    jobs = example_jobs()
    data = {path.parent.name: path.parent for path in sorted(EXAMPLES.glob("*/ATTRIBUTION.md"))}
    if not name:
        rows = [(key, "job", about_example(text)) for key, text in jobs.items()]
        rows += [
            (key, "data", ", ".join(sorted(file.name for file in path.glob("*.csv")))) for key, path in data.items()
        ]
        console().print(table("Examples", ("name", "kind", "what it is"), rows))
    elif name in jobs and target is None:
        typer.echo(jobs[name], nl=False)
    elif name in data and target is not None:
        _copy(data[name], target)
        console().print(
            f"copied to {target}; make a federation of it with "
            f"`veilscore init FOLDER --data {shlex.quote(str(target))}`"
        )
    elif name in data:
        raise ConfigError(f"{name} is a data set: say where to copy it, `veilscore example {name} FOLDER`")
    elif name in jobs:
        raise ConfigError(f"{name} is a job, which is printed: `veilscore example {name} > {shlex.quote(str(target))}`")
    else:
        raise ConfigError(f"there is no example {name!r}; there are {', '.join([*jobs, *data])}")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except FileExistsError:
        raise ConfigError(f"{target} exists; name a new folder") from None
    except (OSError, shutil.Error) as error:
        raise StateError(f"{target} cannot be written: {error}") from error
