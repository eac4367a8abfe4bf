"""Veilscore: joint scoring of small businesses; raw data never leaves its owner."""

import os
import sys

__version__ = "0.1.0"

_REFUSAL = ""
if sys.version_info < (3, 11):  # noqa: UP036 - a checkout runs without pip, which would have refused
    _REFUSAL = f"Veilscore needs Python 3.11 or newer; this is {sys.version.split()[0]}"
elif os.name != "posix":
    _REFUSAL = "Veilscore runs on Linux and macOS, whose file locks and sandboxes it needs; on Windows, use it in WSL 2"
if _REFUSAL:
    # for a command the sentence alone, for a program something that it can catch
    _PROGRAM = "".join(sys.argv[:1])
    raise (SystemExit if _PROGRAM == "-m" or "veilscore" in _PROGRAM else ImportError)(_REFUSAL)
