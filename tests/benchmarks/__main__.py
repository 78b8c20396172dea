"""The tap, the bare loop and a tap with the SDK's defaults, in turns.

``uv run python -m tests.benchmarks`` measures without a limit, and with ``limit`` at
its end under that of Homele. It prints tables and asserts nothing.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# Nothing large is imported, or read, in this process: what it takes of memory counts
# for those that it starts.

ROOT = Path(__file__).parents[2]
TURNS = 3
CHANGES = 10
# The page size, and the requests of a minute.
PAGE, LIMIT = 100, 60
LATENCY = 0.3

TOKEN = "1|sandbox"  # noqa: S105
# Without them Python starts in half the time, and buffers as it does for users.
UNUSUAL = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")

TAP, BARE, DEFAULT = "tap-homele", "bare loop", "SDK defaults"
COMMANDS = {
    TAP: ["-m", "tap_homele"],
    BARE: [str(ROOT / "tests/benchmarks/bare.py")],
    DEFAULT: [str(ROOT / "tests/benchmarks/default.py")],
}


class Figures(NamedTuple):
    """What a run took: seconds of CPU and of wall time, MiB, and requests."""

    cpu: float
    wall: float
    memory: float
    requests: float


def serve(customers: int, rate_limit: int, latency: float) -> None:
    """Serve a sandbox, and tell by standard input and output what it is asked."""
    from tests.sandbox import Sandbox  # noqa: PLC0415

    sandbox = Sandbox.with_customers(
        customers, rate_limit=rate_limit or None, latency=latency
    )
    with sandbox.serve():
        print(sandbox.api_url, flush=True)
        for line in sys.stdin:
            if line == "edit\n":
                for customer_id in [*sandbox.customers][:CHANGES]:
                    sandbox.edit(customer_id, last_activity_at=sandbox.now())
            print(len(sandbox.requests), flush=True)
            sandbox.requests.clear()


class Served:
    """A sandbox in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.api_url = self._read()

    def requests(self, word: str = "count") -> int:
        """Give how many requests there were since the last time."""
        print(word, file=self.process.stdin, flush=True)
        return int(self._read())

    def _read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@contextmanager
def served(customers: int, limit: int = 0, latency: float = 0) -> Iterator[Served]:
    command = [sys.executable, "-m", "tests.benchmarks", "serve"]
    process = subprocess.Popen(
        [*command, str(customers), str(limit), str(latency)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        yield Served(process)
        process.terminate()


def measure(command: list[str], folder: Path, sandbox: Served | None = None) -> Figures:
    """Run a command, what it writes into files."""
    if sandbox:
        sandbox.requests()
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        began = time.perf_counter()
        environment = {k: v for k, v in os.environ.items() if k not in UNUSUAL}
        process = subprocess.Popen(
            command, stdout=out, stderr=log, env=environment, cwd=folder
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((folder / "log").read_text())
    cpu, mib = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    return Figures(cpu, wall, mib, sandbox.requests() if sandbox else 0)


def medians(runs: list[Figures]) -> Figures:
    return Figures(*map(statistics.median, zip(*runs, strict=True)))


def python(folder: Path) -> str:
    """Install the tap as a user does, without what only the tests need."""
    environment = folder / "environment"
    subprocess.run(["uv", "venv", "-q", "-p", sys.executable, environment], check=True)  # noqa: S607
    install = ["uv", "pip", "install", "-q", "--compile-bytecode"]
    subprocess.run([*install, "-p", environment, "-e", ROOT], check=True)
    return str(environment / "bin" / "python")


def config_for(
    folder: Path, sandbox: Served, name: str, **settings: float
) -> list[str]:
    """Write a config file; give the arguments that name it."""
    config = {"auth_token": TOKEN, "api_url": sandbox.api_url, **settings}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return ["--config", str(path)]


def row(name: str, *cells: str) -> None:
    print(f"{name:<34}" + "".join(f"{cell:>12}" for cell in cells))


def table(title: str, results: dict[str, Figures]) -> None:
    print(f"\n{title}")
    row("", "CPU s", "of bare", "wall s", "MiB", "requests")
    bare = results.get(BARE)
    for name, run in results.items():
        ratio = f"{run.cpu / bare.cpu:.2f}" if bare else ""
        row(
            *(name, f"{run.cpu:.2f}", ratio, f"{run.wall:.2f}"),
            *(f"{run.memory:.1f}", f"{run.requests:.0f}"),
        )


def start_up(interpreter: str, folder: Path) -> None:
    turns: dict[str, list[Figures]] = {"--version": [], "import singer_sdk": []}
    for _ in range(10):
        turns["--version"] += [
            measure([interpreter, "-m", "tap_homele", "--version"], folder)
        ]
        code = "import singer_sdk"
        turns[code] += [measure([interpreter, "-c", code], folder)]
    print("\nStart-up")
    row("", "CPU s", "over", "wall s")
    least = medians(turns[code]).cpu
    for name, runs in turns.items():
        run = medians(runs)
        row(name, f"{run.cpu:.3f}", f"{run.cpu / least - 1:.1%}", f"{run.wall:.3f}")


def full(interpreter: str, folder: Path, customers: int) -> None:
    with served(customers) as sandbox:
        turns: dict[str, list[Figures]] = {name: [] for name in COMMANDS}
        for _ in range(TURNS):
            for name, command in COMMANDS.items():
                config = config_for(folder, sandbox, name)
                run = measure([interpreter, *command, *config], folder, sandbox)
                turns[name].append(run)
        table(
            f"{customers} customers, all of them",
            {name: medians(runs) for name, runs in turns.items()},
        )
        incremental(interpreter, folder, sandbox, customers)


def incremental(
    interpreter: str, folder: Path, sandbox: Served, customers: int
) -> None:
    command = [interpreter, *COMMANDS[TAP], *config_for(folder, sandbox, TAP)]
    measure(command, folder)
    state = folder / "state.json"
    with (folder / "out").open("rb") as out:
        out.seek(-5000, os.SEEK_END)
        last = out.read().splitlines()[-1]
    state.write_text(json.dumps(json.loads(last)["value"]))
    pages = math.ceil(customers / PAGE)
    kinds: dict[str, dict[str, float]] = {
        "full scan": {},
        "quick run": {"full_scan_every_hours": 24},
    }
    results = {}
    for kind, settings in kinds.items():
        config = config_for(folder, sandbox, "incremental", **settings)
        command = [interpreter, *COMMANDS[TAP], *config, "--state", str(state)]
        runs = []
        for _ in range(TURNS):
            sandbox.requests("edit")
            runs.append(measure(command, folder, sandbox))
        results[kind] = medians(runs)
    table(f"{customers} customers on {pages} pages, {CHANGES} active", results)


def limited(interpreter: str, folder: Path, customers: int, latency: float) -> None:
    """Under Homele's limit, which counts from the first request of each minute."""
    with served(customers, LIMIT, latency) as sandbox:
        command = [interpreter, *COMMANDS[TAP], *config_for(folder, sandbox, TAP)]
        run = measure(command, folder, sandbox)
    # The pages, and the head once more. The cross-check does not wait.
    needed = math.ceil(customers / PAGE) + 1
    minutes = (needed - 1) // LIMIT
    least = 60 * minutes + (needed - minutes * LIMIT) * latency
    print(f"\n{customers} customers, {LIMIT} requests a minute, {latency} s latency")
    row("", "wall s", "least s", "over", "requests")
    over = f"{run.wall / least - 1:.1%}"
    row(TAP, f"{run.wall:.1f}", f"{least:.1f}", over, f"{run.requests:.0f}")


def main(which: str = "") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        interpreter = python(folder)
        if which == "limit":
            for latency in (0.0, LATENCY):
                limited(interpreter, folder, 8000, latency)
            return
        start_up(interpreter, folder)
        for customers in (20_000, 100_000):
            full(interpreter, folder, customers)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    else:
        main(*sys.argv[1:])
