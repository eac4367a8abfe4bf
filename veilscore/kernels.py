"""Functions compiled to machine code (numba), and where the compiled code is kept.

`kernel` is numba's `njit` with the types of the arguments declared, so that `python -m veilscore.compile` can compile
everything before the first job. What a process compiles later it keeps as well: beside the sources or, where these
cannot be written, in the node's home, in the user's cache folder or in a temporary folder.

numba's own cache is not used: it knows a function by its file alone, so that code compiled from another file's inlined
functions and constants outlives their change; it refuses to start where nothing can be written; it lets a damaged file
end the process. Here a file's name is the digest of everything the code was compiled from. Loading one runs what is in
it, so only folders are read that no other user can write.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import stat
import sys
import tempfile
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ParamSpec, TypeVar, cast

import llvmlite
import numba
import numpy as np
from numba import njit
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.extending import _Intrinsic
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

P = ParamSpec("P")
R = TypeVar("R")

FOLDER = "__pycache__"
SUFFIX = f".{sys.implementation.cache_tag}.kernel"
_ROOT = Path(__file__).resolve().parent
_DIGEST = 32
_FORM = "digest, zlib"

kernels: list[Kernel] = []
"""All kernels of the modules imported so far."""
_log = logging.getLogger(__name__)
_places: list[Path] = []  # a node's own folder, if this process runs one


def kernel(
    *signatures: str, needs: Callable[[], bool] | None = None, strict: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that compiles a function, without the interpreter's lock, for these types of arguments.

    signatures : types as numba writes them: `u4[:,::1]` is a C-contiguous matrix of uint32, `Array(u4, 2, 'C', True)`
        one that cannot be written, `i8` an int64. None for what only other kernels call. Other types are compiled when
        they are first seen.
    needs : tells whether this machine can run it at all; where it cannot, it must not even be compiled.
    strict : call it with these types alone, to which arrays of other strides are read as they are.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        dispatcher: Any = njit(nogil=True)(function)
        dispatcher._cache = KernelCache(function)  # noqa: SLF001 - as numba's own `enable_caching` does
        made = Kernel(dispatcher, signatures, needs)
        kernels.append(made)
        return cast("Callable[P, R]", made.called_strictly if strict else dispatcher)

    return decorate


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function part of every kernel that calls it."""
    return cast("Callable[P, R]", njit(inline="always")(function))


def keep_in(folder: Path) -> None:
    """Keep in this folder what this process compiles, if the installation cannot be written."""
    _places[:] = [folder]


class Kernel:
    """A compiled function and the types it is declared for."""

    def __init__(self, dispatcher: Any, signatures: tuple[str, ...], needs: Callable[[], bool] | None = None) -> None:
        self.dispatcher, self._needs, self._closed = dispatcher, needs, False
        self._closing = threading.Lock()
        self.signatures = tuple(normalize_signature(text)[0] for text in signatures)
        self.name = f"{dispatcher.py_func.__module__}.{dispatcher.py_func.__qualname__}"

    def missing(self) -> list[tuple[Any, ...]]:
        """Return the declared types for which no compiled code is kept, if the machine can run it."""
        if self._needs is not None and not self._needs():
            return []
        target = self.dispatcher.targetctx
        return [s for s in self.signatures if self.dispatcher._cache.find(s, target) is None]  # noqa: SLF001

    def file_names(self) -> set[str]:
        """Return the names of the files that keep the compiled code of the declared types."""
        codegen = self.dispatcher.targetctx.codegen()
        return {self.dispatcher._cache.file_name(s, codegen) for s in self.signatures}  # noqa: SLF001

    def called_strictly(self, *values: Any) -> Any:
        """Call with the declared types; others are converted, or TypeError."""
        if not self._closed:
            with self._closing:  # steps of two jobs run in threads of their own, and the second must not compile then
                if not self._closed:
                    for signature in self.signatures:
                        self.dispatcher.compile(signature)
                    self.dispatcher.disable_compile()
                    self._closed = True
        return self.dispatcher(*values)

    def compile(self, signature: tuple[Any, ...]) -> None:
        """Compile for these types, or load what is kept."""
        self.dispatcher.compile(signature)

    def undeclared(self) -> list[tuple[Any, ...]]:
        """Return the types that this process compiled or loaded without being told of them."""
        return [s for s in self.dispatcher.signatures if self.signatures and s not in self.signatures]


class KernelCache(NullCache):
    """Compiled code of one function, a file for each list of types; nothing that fails here fails the caller."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code for these types, or None."""
        target_context.refresh()
        try:
            payload = self.find(sig, target_context)
            return None if payload is None else CompileResult._rebuild(target_context, *pickle.loads(payload))  # noqa: S301, SLF001 - from a folder of this user's
        except Exception:  # noqa: BLE001 - a cache that cannot be used only costs time
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code in the first folder that can be written."""
        try:
            if data.library.has_dynamic_globals:  # it holds addresses of this process
                return
            self._save(self.file_name(sig, data.codegen), zlib.compress(dumps(data._reduce())))  # noqa: SLF001 - numba's own form
        except Exception as error:  # noqa: BLE001 - as above
            _tell(f"compiled code cannot be kept ({error}), so every process compiles it again")

    def find(self, sig: Any, target_context: Any) -> bytes | None:
        """Return the serialized code for these types if an undamaged file has it."""
        name = self.file_name(sig, target_context.codegen())
        for folder in self._folders():
            try:
                if not _is_private(folder):
                    continue
                content = (folder / name).read_bytes()
            except OSError:
                continue
            if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                return zlib.decompress(content[_DIGEST:])
        return None

    def _save(self, name: str, payload: bytes) -> None:
        for place, folder in enumerate(self._folders()):
            try:
                if not folder.is_dir():
                    folder.parent.mkdir(0o700, parents=True, exist_ok=True)
                    folder.mkdir(0o700, exist_ok=True)
                    if not place:  # beside the sources, for all who run them, whatever this process's umask is
                        folder.chmod(0o755)
                if not _is_private(folder):
                    continue
                part = folder / f"{name}.{uuid.uuid4().hex}"
                try:
                    part.write_bytes(hashlib.sha256(payload).digest() + payload)
                    part.chmod(0o600 if place else 0o644)
                    part.replace(folder / name)
                finally:
                    part.unlink(missing_ok=True)
            except OSError:
                continue
            if place:
                _tell(
                    f"compiled code is kept in {folder.parent}, because {_ROOT} cannot be written; "
                    "let its owner run `python -m veilscore.compile` once"
                )
            return
        raise OSError("no folder of this user's can be written")

    def _folders(self) -> Iterator[Path]:
        """Yield where compiled code may be: beside the sources, then folders of this process, user and machine."""
        home = Path(self._function.__code__.co_filename).resolve().parent
        yield home / FOLDER
        room = home.relative_to(_ROOT).as_posix().replace("/", "-") if home.is_relative_to(_ROOT) else home.name
        for place in (*_places, *_user_folders()):
            yield place / (room or _ROOT.name)

    def file_name(self, sig: Any, codegen: Any) -> str:
        """Return the name for these types on this machine: a digest of all that the compiled code depends on."""
        made_by = (_FORM, codegen.magic_tuple(), numba.__version__, llvmlite.__version__, np.__version__)
        key = repr((str(sig), made_by, self._stamp)).encode()
        name = f"{Path(self._function.__code__.co_filename).stem}.{self._function.__qualname__}"
        return f"{name}-{hashlib.sha256(key).hexdigest()[:32]}{SUFFIX}"

    @cached_property
    def _stamp(self) -> str:
        digest = hashlib.sha256()
        _add_sources(self._function, digest, set())
        return digest.hexdigest()


def _add_sources(function: Any, digest: Any, seen: set[object]) -> None:
    """Digest the file of a function, and all that the function takes from elsewhere: compiled functions, constants."""
    seen.add(function)
    digest.update(hashlib.sha256(Path(function.__code__.co_filename).read_bytes()).digest())
    for name, value in sorted(_names_in(function.__code__, function.__globals__), key=lambda pair: pair[0]):
        called = getattr(value, "py_func", None)
        if isinstance(value, _Intrinsic):  # instructions of the processor
            digest.update(hashlib.sha256(Path(value._defn.__code__.co_filename).read_bytes()).digest())  # noqa: SLF001
        elif called is not None and called not in seen:
            _add_sources(called, digest, seen)
        elif isinstance(value, np.ndarray):
            digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
        elif isinstance(value, (int, float, tuple, np.generic)):
            digest.update(f"{name} {value!r}".encode())


def _names_in(code: CodeType, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the global names that code uses, and those of modules in it, with their values."""
    for name in code.co_names:
        value = names.get(name)
        yield name, value
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] == __package__:
            yield from ((f"{name}.{n}", vars(value)[n]) for n in code.co_names if n in vars(value))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant, names)


def _user_folders() -> Iterator[Path]:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - Path's raises without a home
    if Path(cache).is_absolute():
        yield Path(cache) / "veilscore"
    with contextlib.suppress(OSError):  # no temporary folder can be written
        yield Path(tempfile.gettempdir()) / f"veilscore-{os.geteuid()}"


def _is_private(folder: Path) -> bool:
    """Tell whether nobody but this user, root or the owner of the sources can write in a folder.

    Raises OSError: there is no such folder.
    """
    trusted = {0, os.geteuid(), _ROOT.stat().st_uid}
    for path in (folder, folder.parent):
        about = path.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid not in trusted or about.st_mode & stat.S_IWOTH:
            return False
    return True


@cache
def _tell(text: str) -> None:
    """Warn, once a process."""
    _log.warning(text)
