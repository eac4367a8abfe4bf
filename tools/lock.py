"""Pin the packages of the core, the demonstration and the tests, each in a file of its own: ``make lock``.

The widest set is resolved first and constrains the others, so that one package has one version in all of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = (
    ("requirements-dev.lock", ("dev", "demo")),
    ("requirements-demo.lock", ("demo",)),
    ("requirements.lock", ()),
)


def main() -> None:
    """Write the files; what they hold already is not kept, so that all packages move to their newest versions."""
    uv = Path(sys.executable).with_name("uv")
    widest = ""
    for name, extras in LOCKS:
        command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--upgrade"]
        command += ["--python-version", "3.11", "--custom-compile-command", "make lock", "--no-header"]
        command += [word for extra in extras for word in ("--extra", extra)]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.write(widest)
            constraints.flush()
            done = subprocess.run(
                [*command, "--constraints", constraints.name, "--no-annotate", "pyproject.toml"],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            )
        text = done.stdout
        (ROOT / name).write_text(f"# Made by `make lock` from pyproject.toml.\n{text}", encoding="utf-8")
        widest = widest or "".join(line.rstrip(" \\") + "\n" for line in text.splitlines() if not line.startswith(" "))
        print(f"{name}: {sum(not line.startswith((' ', '#')) for line in text.splitlines())} packages")


if __name__ == "__main__":
    main()
