"""The root: the folder of all experiments and sweeps, on this machine or on an object store.

A verb opens the root that its user names, once, and hands the object on: to planning, launching and reading. Everything
else sees ordinary paths: of a root on an object store, those of its copy on this machine.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep import _paths
from raysweep.errors import RootError, StoreError
from raysweep.store import layout
from raysweep.store.remote import copies

if TYPE_CHECKING:  # every command imports this module; few need the other
    from raysweep.store.remote.mirror import Mirror


class Root(ABC):
    """Where experiments and sweeps are. Two roots are equal if their addresses are."""

    @staticmethod
    def open(text: str | Path, look: bool = True) -> Root:
        """The root that a user names.

        Args:
            look: bring the local copy of an object store up to date. False leaves it as it is; for a command that only adds
                to the root.

        Raises:
            RootError: there is no such bucket, no access or no answer, or the address is not supported.
        """
        if not _paths.is_address(text):
            path = _paths.user_path(text)
            copies.check_outside(path, 1)
            return LocalRoot(path)
        found = RemoteRoot(str(text)).opened()
        if look:
            try:
                found.refresh()
            except StoreError as error:
                raise RootError(str(error)) from None
        return found

    @staticmethod
    def at(folder: Path) -> Root:
        """The root whose local folder this is. A root on an object store must already be open in this process."""
        found = copies.holding(folder)
        return LocalRoot(folder) if found is None else RemoteRoot(_address(found, folder), found, folder)

    @property
    @abstractmethod
    def path(self) -> Path:
        """Its folder on this machine; of an object store, its copy's."""

    @property
    @abstractmethod
    def address(self) -> str:
        """What to type as ``--root``: the path, or the address with its options."""

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """Whether it is on an object store."""

    @abstractmethod
    def refresh(self, folder: Path | None = None, patient: bool = True) -> None:
        """Bring the folder of an experiment or a sweep up to date with what other machines have written; by default, the
        whole root.

        Args:
            patient: wait while a process of this machine writes to the folder; never done for the whole root.

        Raises:
            StoreError: the object store cannot be listed or read.
        """

    @abstractmethod
    def claim(self, folder: Path) -> bool:
        """Reserve the name of a new folder; False if another machine already uses it."""

    @abstractmethod
    def publish(self, folder: Path) -> None:
        """Upload a folder that was filled under another name. The manifest comes last, so that nothing counts before it."""

    def check_writable(self) -> None:
        """Make the root if it is missing, and make sure that it can be written to.

        Raises:
            RootError: it cannot.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"{layout.TEMP_PREFIX}{secrets.token_hex(8)}"  # never the name of one that a kill left
            probe.mkdir()
            probe.rmdir()
        except (OSError, ValueError) as error:  # ValueError: NUL in the path
            reason = error.strerror if isinstance(error, OSError) else error
            raise RootError(
                f"Experiments cannot be written to {self.path.absolute()}: {reason}. Choose another folder with --root or "
                "make it writable."
            ) from None
        self.check_reachable()

    @abstractmethod
    def check_reachable(self) -> None:
        """Make sure that a root on an object store can be written to; does nothing for an ordinary folder.

        Raises:
            RootError: it cannot.
        """

    def caveat(self) -> str | None:
        """What to tell a user who writes here about what this root cannot do."""
        return None

    @abstractmethod
    def resolved(self) -> Root:
        """The same, named so that it does not depend on this process's working directory."""

    @staticmethod
    def address_of(path: str | Path) -> str:
        """The name of a path that also works on other machines: its address, if it is under an open root on an object
        store."""
        found = copies.holding(path)
        return str(path) if found is None else found.bucket.url(found.key(path))

    @staticmethod
    def locate(text: str | Path, opens: bool = True) -> Path:
        """The local path of a file or folder that is named by its path or address, whichever root it is in.

        Args:
            opens: open the root of the address if it is not open yet. False for a text that a stranger may have written;
                such an address is returned unchanged, and no file has that path.

        Raises:
            RootError: the path is in the local copy of a root that is not open, or the root cannot be opened.
        """
        if _paths.is_address(text):
            return _located(str(text), opens)
        path = Path(text)
        copies.check_outside(path, 4)
        return path

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)


class LocalRoot(Root):
    """A folder that this machine sees, perhaps on a network file system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        return self._path

    @property
    def address(self) -> str:
        return str(self._path)

    @property
    def is_remote(self) -> bool:
        return False

    def resolved(self) -> Root:
        return LocalRoot(self._path.resolve())

    def refresh(self, folder: Path | None = None, patient: bool = True) -> None:
        pass  # every machine sees the same files

    def claim(self, folder: Path) -> bool:
        return True  # mkdir has decided it

    def publish(self, folder: Path) -> None:
        pass

    def check_reachable(self) -> None:
        pass


class RemoteRoot(Root):
    """A root on an object store, with its copy on this machine.

    Pickled, it is only its address: it is opened anew, with another copy, on the machine where it is used next.
    """

    def __init__(self, address: str, mirror: Mirror | None = None, path: Path | None = None) -> None:
        self._address, self._mirror, self._path = address, mirror, path

    def __reduce__(self) -> tuple[type[RemoteRoot], tuple[str]]:
        return RemoteRoot, (self.address,)

    def opened(self) -> RemoteRoot:
        """The same, with its copy. Raises RootError: it is no address, or the copy cannot be made."""
        if self._mirror is None:
            from raysweep.store.remote.bucket import Bucket

            self._mirror = copies.attach(Bucket.parse(self._address))
            self._path = self._mirror.root
            self._address = _address(self._mirror, self._path)
        return self

    @property
    def mirror(self) -> Mirror:
        found = self.opened()._mirror
        assert found is not None
        return found

    @property
    def path(self) -> Path:
        found = self.opened()._path
        assert found is not None
        return found

    @property
    def address(self) -> str:
        return self._address

    @property
    def is_remote(self) -> bool:
        return True

    def refresh(self, folder: Path | None = None, patient: bool = True) -> None:
        if folder is None:  # nobody waits for the writers of all experiments
            self.mirror.pull(self.mirror.home(self.path))
        else:
            self.mirror.pull(self.mirror.home(folder), patient)

    def resolved(self) -> Root:
        return self

    def claim(self, folder: Path) -> bool:
        return self.mirror.claim(folder)

    def publish(self, folder: Path) -> None:
        files = [p for p in folder.rglob("*") if p.is_file() and self.mirror.told(p)]
        files.sort(key=lambda p: (p.name == layout.MANIFEST, str(p)))
        with self.mirror.alone(folder, writes=True):
            for path in files:
                self.mirror.push(path)

    def caveat(self) -> str | None:
        if self.mirror.bucket.conditional:
            return None
        return (
            f"{self.mirror.bucket.address} does not honour conditions (If-None-Match, If-Match): a writer that stands still, and loses "
            "its lock to --steal, can still replace what the next one has written. See https://github.com/raysweep/raysweep/blob/main/docs/cluster.md."
        )

    def check_reachable(self) -> None:
        self.mirror.bucket.check_writable(f"{layout.TEMP_PREFIX}{secrets.token_hex(8)}")


def _address(mirror: Mirror, path: Path) -> str:
    return mirror.bucket.url(mirror.key(path)) + mirror.bucket.query


def _located(address: str, opens: bool) -> Path:
    """The path of a place in an object store."""
    from raysweep.store.remote.bucket import Bucket

    wanted = Bucket.parse(address)
    parts = wanted.prefix.split("/")
    for found in copies.opened():
        known = found.bucket
        above = known.prefix.split("/") if known.prefix else []
        if known.name == wanted.name and parts[: len(above)] == above and wanted.options in ({}, known.options):
            return found.root.joinpath(*parts[len(above) :])
    if not opens:
        return Path(address)
    up = 2 if parts[-1].endswith(".pt") or parts[-2:-1] == [layout.SWEEPS] else 1
    wanted.prefix = "/".join(parts[:-up])
    return Root.open(wanted.address + wanted.query).path.joinpath(*parts[-up:])
