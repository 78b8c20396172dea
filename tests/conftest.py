"""Fixtures: a sandbox that serves, waits that take no time, a PostgreSQL."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tap_homele import records
from tests.sandbox import Sandbox
from tests.sandbox.postgres import folders_opened, postgres
from tests.world import Company

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # Makes a sandbox with so many customers, and serves it.
    Serve: TypeAlias = Callable[..., Sandbox]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--histories",
        type=int,
        default=150,
        help="how many histories the simulation goes through",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Open the folders above PostgreSQL until the last worker has ended."""
    if not hasattr(config, "workerinput"):  # xdist's workers are processes below this
        opened = ExitStack()
        opened.enter_context(folders_opened())
        config.add_cleanup(opened.close)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Make sandboxes that serve until the test ends."""
    sandboxes: list[Sandbox] = []

    def make(customers: int = 250, **options: object) -> Sandbox:
        sandboxes.append(Sandbox.with_customers(customers, **options).serve())
        return sandboxes[-1]

    yield make
    for sandbox in sandboxes:
        sandbox.stop()


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Take no time to wait before a request is tried again; give the seconds.

    Replaces the clock that python-backoff sees, and no other.
    """
    seconds: list[float] = []
    clock = SimpleNamespace(sleep=seconds.append, monotonic=time.monotonic)
    monkeypatch.setattr("backoff._sync.time", clock)
    return seconds


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Run a PostgreSQL. Its folder's path is short, as a Unix socket's must be."""
    parent = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        with postgres(parent / "data") as url:
            yield url
    finally:
        shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def company(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> Company:
    caplog.set_level(logging.INFO)
    company = Company(serve(0))
    company.waited = waited
    monkeypatch.setattr(records, "utc_now", lambda: company.now)
    return company
