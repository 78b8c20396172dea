"""The steps of the demo: they leave nothing behind, however they end."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from tests.singer import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
SANDBOX = [sys.executable, str(ROOT / "tests" / "sandbox")]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder whose path is short, as that of a Unix socket must be."""
    path = Path(tempfile.mkdtemp(prefix="demo"))
    yield path
    leave(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def environment(folder: Path, port: int) -> dict[str, str]:
    return clean_environment() | {
        "TAP_HOMELE_SANDBOX_API_URL": f"http://127.0.0.1:{port}",
        "SANDBOX_FOLDER": str(folder / ".sandbox"),
    }


def step(folder: Path, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SANDBOX, *arguments],
        cwd=folder,
        env=environment(folder, port),
        capture_output=True,
        text=True,
        check=False,
    )


def alive(folder: Path) -> list[psutil.Process]:
    """Give the processes that belong to a demo in this folder."""
    return [
        process
        for process in psutil.process_iter(["cwd", "cmdline"])
        if str(folder) in f"{process.info['cwd']} {process.info['cmdline']}"
    ]


def leave(folder: Path) -> None:
    for process in alive(folder):
        process.kill()


def wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while alive(folder):
        assert time.monotonic() < deadline, alive(folder)
        time.sleep(0.1)


def test_start_and_stop(folder: Path, port: int) -> None:
    started = step(folder, port, "start")
    assert started.returncode == 0, started.stderr
    assert "are running" in started.stdout
    assert alive(folder)

    again = step(folder, port, "start")
    assert again.returncode == 1
    assert again.stderr.startswith("A demo or playground is running here already (pro")

    stopped = step(folder, port, "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert alive(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == [".sandbox"]


def test_it_ends_with_the_process_that_started_it(folder: Path, port: int) -> None:
    """As Meltano that is interrupted, or fails in the middle."""
    code = (
        f"import subprocess, time; subprocess.run({[*SANDBOX, 'start']!r}, check=True)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print('started', flush=True); time.sleep(99)"],
        cwd=folder,
        env=environment(folder, port),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout
    assert any("started" in line for line in owner.stdout)
    assert alive(folder)

    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()

    wait_until_gone(folder)


def test_a_playground_stays_until_it_is_stopped(folder: Path, port: int) -> None:
    started = step(folder, port, "start", "--stay")
    assert started.returncode == 0, started.stderr

    shown = step(folder, port, "sql", 'select 1 as one, null, \'{"a": "ä"}\'::jsonb')
    assert shown.stdout == 'one  ?column?  jsonb\n1              {"a": "ä"}\n'
    wrong = step(folder, port, "sql", "select * from nobody")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith('relation "nobody" does not exist')

    guided = step(folder, port, "guide").stdout
    assert f"http://127.0.0.1:{port}, with the token 1|sandbox" in guided
    (psql,) = [line for line in guided.splitlines() if "psql" in line]
    with psycopg.connect(psql.split('"')[1]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)

    assert step(folder, port, "stop").returncode == 0
    assert alive(folder) == []
    nothing = step(folder, port, "sql", "select 1")
    assert nothing.returncode == 1
    assert "uvx meltano run playground" in nothing.stderr


def test_the_lock_is_where_no_other_user_comes(folder: Path, port: int) -> None:
    """Where each user could write, the lock of the first keeps out the second."""
    command = [*SANDBOX, "start", "--stay"]
    code = f"import os, subprocess; os.umask(0o022); subprocess.run({command!r})"
    subprocess.run(
        [sys.executable, "-c", code], env=environment(folder, port), check=True
    )

    lock = folder / ".sandbox" / "runtime" / "python_PostgresServer" / ".lockfile"
    assert lock.exists()
    assert lock.parent.parent.stat().st_mode & 0o077 == 0
    assert step(folder, port, "stop").returncode == 0


@pytest.mark.slow
def test_it_starts_again_after_a_kill(folder: Path, port: int) -> None:
    assert step(folder, port, "start").returncode == 0
    for process in alive(folder):
        if "keep" in process.cmdline():
            process.kill()
            process.wait()
    assert alive(folder), "PostgreSQL should still be there"

    started = step(folder, port, "start")

    assert started.returncode == 0, started.stderr
    assert step(folder, port, "stop").returncode == 0
    assert alive(folder) == []


def test_a_taken_port_is_named(folder: Path, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()

        started = step(folder, port, "start")

    assert started.returncode == 1
    assert started.stderr == (
        f"Port {port} is taken. Put another one into .env, such as "
        f"TAP_HOMELE_SANDBOX_API_URL=http://127.0.0.1:{port + 1}\n"
    )
    assert alive(folder) == []


def test_a_path_that_is_too_long_is_named(folder: Path, port: int) -> None:
    deep = folder / ("a" * 90)
    deep.mkdir()

    started = step(deep, port, "start")

    assert started.returncode == 1
    assert "Clone into another folder." in started.stderr
