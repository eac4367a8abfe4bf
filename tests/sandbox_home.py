"""A bank and a tax bureau on this machine, with real identities and data, for tests of the sandbox."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import yaml
from conftest import require

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
    found_federation(folder / "f", {"bank": "bank", "tax": "holder"}, data=DataFiles(data, "firm", "default"))
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
    (folder / MANIFEST).write_text(yaml.safe_dump(content))
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
