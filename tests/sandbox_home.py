"""A bank and a tax bureau on this machine, with real identities and data, for tests of the sandbox."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import yaml
from conftest import require
from typer.testing import CliRunner

from veilscore.cli import app
from veilscore.errors import SandboxUnavailableError
from veilscore.keys.identity import load_identity
from veilscore.node.founding import DataFiles, found_federation
from veilscore.sandbox.bubblewrap import check_host
from veilscore.sandbox.desk import Desk
from veilscore.sandbox.submission import MANIFEST, make_submission, write_submission

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "secret-turnover-739201"  # noqa: S105 - a mark to look for
N_ROWS = 300
PROJECT = """
    import csv, json
    from lib.sums import mean  # мера
    rows = list(csv.DictReader(open('/data/data.csv')))
    print('seen by the owner only:', rows[0])
    value = mean([float(r['turnover']) for r in rows])
    open('/outputs/mean.json', 'w').write(json.dumps({'value': value, 'count': len(rows)}))
    open('/outputs/part.bin', 'wb').write(bytes(range(256)))
"""
OUTPUTS = {"mean.json": {"kind": "number"}, "part.bin": {"kind": "artefact", "max_bytes": 300}}


def need_sandbox():
    """Skip with the machine's reason where no sandbox can be made (a failure under CI)."""
    try:
        check_host()
    except SandboxUnavailableError as error:
        require(None, str(error))


def make_homes(folder: Path) -> tuple[Path, Path]:
    """Homes of bank and tax bureau in `folder`."""
    data = folder / "data"
    data.mkdir()
    rng = np.random.default_rng(1)
    for party in ("bank", "tax"):
        lines = ["firm,turnover,region,note" + (",default" if party == "bank" else "")]
        for i in range(N_ROWS):
            region = ("north", "south", "rare")[0 if i < 150 else 1 if i < 296 else 2]
            label = f",{i % 2}" if party == "bank" else ""
            lines.append(f"F{i:05d},{rng.lognormal(10, 2):.2f},{region},{SECRET}{label}")
        (data / f"{party}.csv").write_text("\n".join(lines) + "\n")
    found_federation(
        folder / "f", {"bank": "bank", "tax": "holder"}, data=DataFiles(data, "firm", "default"), exact=True
    )
    for party in ("bank", "tax"):
        path = folder / "f" / party / "node.yaml"
        content = yaml.safe_load(path.read_text())
        content["datasets"]["main"]["exclude"] = ["note"]
        path.write_text(yaml.safe_dump(content))
    return folder / "f" / "bank", folder / "f" / "tax"


def write_code(folder: Path, code: str, outputs: dict[str, object] | None = None, **manifest: object) -> Path:
    """A folder with submission.yaml and main.py."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"name": "trial", "owner": "tax", "dataset": "main", "purpose": "features"}
    content |= {"outputs": outputs or {"mean.json": {"kind": "number"}}, **manifest}
    (folder / MANIFEST).write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "main.py").write_text(textwrap.dedent(code))
    return folder


def submit(bank: Path, tax: Path, folder: Path) -> tuple[Desk, str]:
    """Sign and send a folder, and receive it; returns the owner's desk and the id."""
    submission = make_submission(folder, load_identity(bank / "identity"))
    desk = Desk(tax)
    write_submission(submission, desk.inbox)
    assert desk.receive() == ()
    return desk, submission.sha256


def set_policy(tax: Path, **settings: object) -> None:
    """Write sandbox.yaml of the owner."""
    (tax / "sandbox.yaml").write_text(yaml.safe_dump(settings))


def is_root() -> bool:
    """Whether the tests run as root."""
    return os.geteuid() == 0


def write_project(folder: Path, **manifest: object) -> Path:
    """A folder with code of several files, which gives a number and bytes."""
    code = write_code(folder, PROJECT, OUTPUTS, **manifest)
    (code / "lib").mkdir(exist_ok=True)
    (code / "lib" / "__init__.py").write_text("")  # an empty file has to arrive too
    (code / "lib" / "sums.py").write_text("def mean(values):\n    return sum(values) / len(values)\n")
    return code


def sandbox(*words: object, exit_code: int = 0) -> str:
    """One command `veilscore sandbox ...`; returns what it printed, or the error it raised."""
    result = CliRunner().invoke(app, ["sandbox", *map(str, words)])
    assert result.exit_code == exit_code, (result.output, result.exception)
    return result.output if exit_code == 0 else str(result.exception)
