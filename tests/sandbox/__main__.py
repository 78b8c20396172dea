"""The sandbox from the command line, and the demo's steps.

``python tests/sandbox serve`` serves a Homele API until Ctrl-C. The other commands are
the steps of ``meltano run demo``, which come and go while one process, started by
``start``, keeps the sandbox and a PostgreSQL server. That process ends, and takes both
with it, on ``stop`` or as soon as Meltano is gone, however it went; in ``meltano run
playground`` it stays until ``stop``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from contextlib import suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psutil
import psycopg

# Also where Meltano runs in another folder.
ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from tests.sandbox.server import TOKEN, Sandbox  # noqa: E402

# The tests have demos of their own, in other folders.
FOLDER = Path(os.environ.get("SANDBOX_FOLDER", ROOT / ".sandbox")).resolve()
URL = os.environ.get("TAP_HOMELE_SANDBOX_API_URL") or "http://127.0.0.1:18923"
POSTGRES = FOLDER / "postgres"
# Written when all is ready; holds the pid of the keeper.
READY = FOLDER / "ready.json"
LOG = FOLDER / "log"

SCHEMA = "tap_homele_sandbox"
CUSTOMERS = 2345
EDITS = 10
# The path of a Unix socket holds so many bytes at most (Linux 107, macOS 103).
LONGEST_SOCKET_PATH = 103
PATIENCE = 60  # seconds to start in
RATE_LIMIT = 60  # requests a minute, as Homele


def serve(port: int) -> None:
    """Serve a Homele API in the foreground."""
    with Sandbox.with_customers(CUSTOMERS, rate_limit=RATE_LIMIT).serve(
        port
    ) as sandbox:
        print(f"A Homele API with {CUSTOMERS} customers: {sandbox.api_url}", flush=True)
        print(f"Its token: {TOKEN}   (Ctrl-C ends it)", flush=True)
        signal.pause()


def start(port: int, *, stay: bool) -> None:
    """Start the sandbox and PostgreSQL, for as long as the calling process lives."""
    if keeper := _keeper():
        _fail(
            f"A demo or playground is running here already (process {keeper.pid}). To "
            "end it: uvx meltano invoke sandbox:stop"
        )
    _check_folder()
    _check_port(port)
    _forget()
    FOLDER.mkdir()
    owner = 0 if stay else os.getppid()
    command = [sys.executable, str(Path(__file__).parent), "keep"]
    # The keeper outlives this process, and that is as it should be.
    warnings.simplefilter("ignore", ResourceWarning)
    with LOG.open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--owner", str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + PATIENCE
    while not READY.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            _fail(f"The sandbox did not start. {LOG} says:\n{LOG.read_text()}")
        time.sleep(0.05)
    print(f"A Homele API with {CUSTOMERS} customers and a PostgreSQL are running.")


def keep(port: int, owner: int) -> None:
    """Run the sandbox and PostgreSQL until told to stop, or until the owner is gone.

    Args:
        port: Where the sandbox listens.
        owner: The process id; 0: there is none, and only ``stop`` ends it.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    alive = psutil.Process(owner) if owner else psutil.Process()
    # The second run follows at once: with Homele's limit it would wait a minute.
    sandbox = Sandbox.with_customers(CUSTOMERS, rate_limit=2 * RATE_LIMIT)
    sandbox.app.add_url_rule(
        "/sandbox/edit", "edit", partial(_edit, sandbox), methods=["POST"]
    )
    # Imported here, because the other commands have no use for it.
    from tests.sandbox.postgres import postgres  # noqa: PLC0415

    with postgres(POSTGRES), sandbox.serve(port):
        READY.write_text(json.dumps({"pid": os.getpid(), "port": port}))
        while not stop.wait(0.2) and alive.is_running():
            pass
        READY.unlink()


def _edit(sandbox: Sandbox) -> dict[str, list[int]]:
    """Edit the customers who were edited last."""
    customers = sandbox.customers.values()
    latest = sorted(customers, key=itemgetter("updated_at", "id"))[-EDITS:]
    for customer in latest:
        sandbox.edit(customer["id"], lead_status={"id": 5, "name": "Won"})
    return {"edited": [customer["id"] for customer in latest]}


def edit() -> None:
    """Edit some customers, as people who use Homele would."""
    with _database() as connection:
        # The report asks what came after this.
        connection.execute("CREATE TABLE IF NOT EXISTS edited AS SELECT now() AS at")
    port = json.loads(READY.read_text())["port"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/sandbox/edit", method="POST"
    )
    with urllib.request.urlopen(request) as response:  # noqa: S310
        edited = json.load(response)["edited"]
    print(f"Edited {len(edited)} customers in Homele: their lead status is Won now.")


def report() -> None:
    """Show what PostgreSQL has."""
    with _database() as connection:
        total, second = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE _sdc_extracted_at > edited.at) "
            "FROM customers, edited"
        ).fetchone() or (0, 0)
        statuses = connection.execute(
            "SELECT coalesce(lead_status ->> 'name', '(none)'), count(*) "
            "FROM customers GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
    print(f"Customers in PostgreSQL: {total}")
    for status, count in statuses:
        print(f"  {status:<12} {count:>5}")
    print(f"Rows that the second run touched: {second}, of {total} that it read")
    if (total, second) != (CUSTOMERS, EDITS):
        _fail(f"There should be {CUSTOMERS} customers, and {EDITS} touched.")


def guide() -> None:
    """Say how to look at what is running."""
    port = json.loads(READY.read_text())["port"]
    print(
        "The sandbox and PostgreSQL keep running. To look at the customers:\n"
        "  uvx meltano invoke sandbox:sql 'table customers'\n"
        f'  psql "{_postgres_url()}"        (or any BI tool; the schema is {SCHEMA})\n'
        f"A tap of your own reads from http://127.0.0.1:{port}, with the token "
        f"{TOKEN}\n"
        "To end it all:\n"
        "  uvx meltano invoke sandbox:stop"
    )


def sql(query: str) -> None:
    """Show what a query returns."""
    if not _keeper():
        _fail("There is no PostgreSQL to ask. Start: uvx meltano run playground")
    with _database() as connection:
        try:
            cursor = connection.execute(query)  # type: ignore[arg-type]
        except psycopg.Error as error:
            _fail(str(error).rstrip())
        names = [column.name for column in cursor.description or ()]
        rows = cursor.fetchall() if names else []
    table = [names, *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _cell(value: object) -> str:
    """Write a value for people; JSON as JSON."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def stop() -> None:
    """Stop all that ``start`` started, and wait until it is gone."""
    if keeper := _keeper():
        keeper.terminate()
        _wait_for_the_end_of(keeper)
    print("Everything is stopped.")


def _keeper() -> psutil.Process | None:
    with suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(json.loads(READY.read_text())["pid"])
        if str(Path(__file__).parent) in process.cmdline():
            return process
    return None


def _wait_for_the_end_of(process: psutil.Process) -> None:
    # An ended process stays as a zombie where nobody collects it, as in a container.
    deadline = time.monotonic() + PATIENCE
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                _fail(f"Process {process.pid} does not end.")
            time.sleep(0.05)


def _forget() -> None:
    """Remove what an earlier demo left, its PostgreSQL included."""
    if POSTGRES.exists():
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            pid = int((POSTGRES / "postmaster.pid").read_text().split()[0])
            process = psutil.Process(pid)
            if "postgres" in process.name():
                process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
                _wait_for_the_end_of(process)
    shutil.rmtree(FOLDER, ignore_errors=True)


def _database() -> psycopg.Connection[tuple[Any, ...]]:
    path = f"-c search_path=public,{SCHEMA}"
    return psycopg.connect(_postgres_url(), options=path)


def _postgres_url() -> str:
    return f"postgresql://postgres:@/postgres?host={POSTGRES}"


def _check_folder() -> None:
    path = str(POSTGRES / ".s.PGSQL.5432")
    if len(path.encode()) > LONGEST_SOCKET_PATH or " " in path:
        _fail(
            f"PostgreSQL cannot listen at {path}: the path must have at most "
            f"{LONGEST_SOCKET_PATH} bytes and no space. Clone into another folder."
        )


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            _fail(
                f"Port {port} is taken. Put another one into .env, such as "
                f"TAP_HOMELE_SANDBOX_API_URL=http://127.0.0.1:{port + 1}"
            )


def _fail(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (serve, start, keep):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.add_argument("--port", type=int, default=urlsplit(URL).port)
        if command is keep:
            sub.add_argument("--owner", type=int, required=True)
        if command is start:
            sub.add_argument("--stay", action="store_true")
    for step in (edit, report, guide, stop):
        commands.add_parser(step.__name__, help=step.__doc__)
    commands.add_parser("sql", help=sql.__doc__).add_argument("query")
    arguments = vars(parser.parse_args())
    globals()[arguments.pop("command")](**arguments)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
