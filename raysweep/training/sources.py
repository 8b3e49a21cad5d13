"""The source files of a user's code: the module of a ``python:`` name, and what it imports from the same folder.

They are found by reading the import statements, so the same files are found in every process, whatever it has imported before.
A module whose name is put together while the program runs is not found.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from raysweep._text import counted, join_names
from raysweep.store.records import CodeRef

OWN = Path(__file__).resolve().parent.parent
MAX_FILES = 200
MAX_FILE = 256_000  # bytes
MAX_BYTES = 1_000_000  # of all files


@dataclass(frozen=True)
class Sources:
    """The files of a user's code as they are in one process. They travel to workers and branches."""

    option: str  # in which its name stands
    target: str  # MODULE:NAME
    folder: str  # in which the outermost module or package lies
    files: Mapping[str, bytes]  # path within the folder → content, sorted
    hashes: Mapping[str, str] = field(default_factory=dict)  # path → SHA-256, also of those that are too large to keep

    value: bytes | None = None  # of code in a notebook: the object itself, pickled
    stays: str | None = None  # why that cannot be
    lacks: str | None = None  # what its text does not have, without which it cannot be made again

    @property
    def left_out(self) -> list[str]:
        """The files of which only the hash is kept, because they are too large or too many."""
        return [path for path in self.hashes if path not in self.files]

    def record(self) -> CodeRef:
        """What an experiment's configuration says of them."""
        option = None if self.option == "model.name" else self.option
        return CodeRef(self.target, self.folder, dict(self.hashes), tuple(self.left_out), option)

    def note(self) -> str | None:
        """What is to be said of files whose text is not kept; None where there are none."""
        if not self.hashes:
            return f"the text of python:{self.target} cannot be found, so that it is not kept, and nothing can be made from it elsewhere"
        if self.lacks is not None:
            return (
                f"python:{self.target} cannot be made again where its notebook does not run, because its text cannot hold {self.lacks}; the "
                "text of its cells is kept"
            )
        if not self.left_out:
            return None
        return (
            f"of the code of python:{self.target}, the text of {counted(len(self.left_out), 'file')} is not kept, only the hash "
            f"({join_names(self.left_out)}): kept are {MAX_FILES} files of {MAX_FILE // 1000} kB, together {MAX_BYTES // 1000} kB"
        )


def collect(target: str, folder: Path, file: Path | None = None, option: str = "model.name") -> Sources:
    """The files of ``MODULE:NAME``, whose outermost module lies in ``folder``.

    Args:
        file: where the object is defined, if that is another file than the module's.
    """
    start = [path for path in _files_of(target.partition(":")[0], folder)]
    if file is not None and file.suffix == ".py" and file.is_relative_to(folder):
        start.append(file)
    contents = _followed({}, list(dict.fromkeys(start)), folder)
    return _of(target, option, folder, contents, [path.relative_to(folder).as_posix() for path in start])


def collect_text(target: str, folder: Path, name: str, text: str, option: str) -> Sources:
    """A text that stands in no file, as the file ``name`` of a folder, and what it imports from there; nothing of an empty one."""
    contents: dict[str, bytes] = {name: text.encode(errors="backslashreplace")} if text else {}
    waiting = [p for m in _imported(contents.get(name, b""), folder / name, folder) for p in _files_of(m, folder)]
    return _of(target, option, folder, _followed(contents, waiting, folder), [*contents])


def _of(target: str, option: str, folder: Path, contents: Mapping[str, bytes], first: list[str]) -> Sources:
    hashes = {name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)}
    return Sources(option, target, str(folder), _within_limits(contents, first), hashes)


def _followed(contents: dict[str, bytes], waiting: list[Path], folder: Path) -> dict[str, bytes]:
    """``contents`` with these files, and what they import from the folder."""
    while waiting:
        path = waiting.pop()
        name = path.relative_to(folder).as_posix()
        if name in contents or path.is_relative_to(OWN):  # the module may lie beside this program
            continue
        try:
            contents[name] = path.read_bytes()
        except OSError:
            continue
        waiting += [p for module in _imported(contents[name], path, folder) for p in _files_of(module, folder)]
    return contents


def _within_limits(contents: Mapping[str, bytes], ahead: list[str]) -> dict[str, bytes]:
    """The files whose text is kept: the module itself goes before what it imports."""
    kept: dict[str, bytes] = {}
    size = 0
    for name in dict.fromkeys([*(n for n in ahead if n in contents), *sorted(contents)]):
        data = contents[name]
        if len(data) <= MAX_FILE and size + len(data) <= MAX_BYTES and len(kept) < MAX_FILES:
            kept[name] = data
            size += len(data)
    return dict(sorted(kept.items()))


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """The files that Python runs to import a module from a folder; none where the folder does not have it."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        inner = folder.joinpath(*parts[:end])
        for path in (inner / "__init__.py", inner.with_name(f"{inner.name}.py")):
            if path.is_file():
                yield path
                break


def _imported(content: bytes, path: Path, folder: Path) -> Iterator[str]:
    """The modules, in full, that a file names in its import statements, wherever in the file these stand."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return
    package = path.relative_to(folder).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ([base] if base else [])
            yield from (".".join([*([base] if base else []), name.name]) for name in node.names if name.name != "*")


@cache
def _installed() -> tuple[Path, ...]:
    """The folders of Python and of what was installed into it."""
    paths = sysconfig.get_paths()
    return tuple(Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def is_users(file: str | Path | None) -> bool:
    """Whether a file is the user's: neither Python's, nor installed, nor raysweep's."""
    if not file or str(file).startswith("<"):
        return False
    path = Path(file).resolve()
    return not (
        {"site-packages", "dist-packages"}.intersection(path.parts)
        or any(path.is_relative_to(folder) for folder in (*_installed(), OWN))
    )
