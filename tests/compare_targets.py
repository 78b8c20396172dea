"""What targets make of the stream, as a table, by hand.

``uv run python -m tests.compare_targets`` pipes the same customers into each target
that needs nothing but its package: a first run, one with edits, and a full table with
ACTIVATE_VERSION after a customer was deleted. It prints how many rows are there after
each, with and without flattening. It needs the Pythons that it names.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.sandbox import Sandbox
from tests.singer import Output, catalog_of, clean_environment, sync

if TYPE_CHECKING:
    from collections.abc import Mapping

CUSTOMERS, EDITS = 300, 38
FLAT = {"flattening_enabled": True, "flattening_max_depth": 1}


class Target(NamedTuple):
    """A target: its package, its Python, its settings, and what it writes."""

    package: str
    python: str = "3.12"
    config: Mapping[str, Any] = MappingProxyType({})
    files: str = "*"
    header: int = 0


TARGETS = (
    Target("target-jsonl==0.1.4", config={"do_timestamp_file": False}, files="*.jsonl"),
    Target(
        "target-singer-jsonl==0.1.0",
        "3.10",
        {"destination": "local", "local": {"folder": "."}},
        "**/*.singer.gz",
    ),
    Target("meltanolabs-target-csv==0.5.0", files="*.csv", header=1),
    Target(
        "target-csv==0.3.0 with setuptools<81",
        "3.9",
        {"disable_collection": True},
        "*.csv",
        1,
    ),
    Target(
        "target-sqlite==0.2.0", "3.9", {"database": "warehouse"}, files="warehouse.db"
    ),
    Target(
        "target-avro==0.2.0 with setuptools<81",
        "3.9",
        {"prefix": "homele", "disable_collection": True},
        "*.avro",
    ),
)


def runs(**options: Any) -> list[str]:
    """Give the messages of the three runs."""
    with Sandbox.with_customers(CUSTOMERS).serve() as sandbox:
        first = sync(sandbox, **options)
        ids = [*sandbox.customers]
        for customer_id in ids[:EDITS]:
            sandbox.edit(customer_id)
        second = sync(sandbox, state=first.state, **options)
        sandbox.delete(ids[-1])
        third = sync(
            sandbox,
            catalog=catalog_of("FULL_TABLE"),
            emit_activate_version_messages=True,
            **options,
        )
    return [lines(output) for output in (first, second, third)]


def lines(output: Output) -> str:
    return "".join(f"{json.dumps(message)}\n" for message in output.messages)


def rows(target: Target, folder: Path) -> str:
    """Count what is there: rows of a database, or lines of all files."""
    found = sorted(folder.glob(target.files))
    if target.files.endswith(".db"):
        with closing(sqlite3.connect(found[0])) as database:
            (count,) = database.execute("SELECT count(*) FROM customers").fetchone()
        return str(count)
    if not target.files.endswith(("jsonl", "csv")):
        return f"{len(found)} files"
    counts = [len(path.read_bytes().splitlines()) - target.header for path in found]
    return "+".join(map(str, counts))


def tried(target: Target, messages: list[str]) -> str:
    """Pipe the runs into a target; say how many rows are there after each."""
    name, *pins = target.package.split(" with ")
    # A Python of pyenv is known to uv by its path alone.
    of_pyenv = Path.home().glob(f".pyenv/versions/{target.python}.*/bin/python")
    python = str(next(of_pyenv, target.python))
    command = ["uvx", "--python", python, "--from", name]
    command += [part for pin in pins for part in ("--with", pin)]
    executable = name.partition("==")[0].removeprefix("meltanolabs-")
    said = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "config.json").write_text(json.dumps(dict(target.config)))
        for message in messages:
            ended = subprocess.run(
                [*command, executable, "--config", "config.json"],
                input=message,
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
                env=clean_environment() | {"UV_PYTHON_DOWNLOADS": "never"},
            )
            if ended.returncode:
                last = ended.stderr.strip().splitlines()[-1:]
                said.append(f"fails: {shlex.join(last)[:60]}")
            else:
                said.append(rows(target, folder))
    return ", ".join(said)


def main() -> None:
    print(f"rows after {CUSTOMERS} customers, {EDITS} edits, full table less one")
    kinds = {"nested": runs(), "flat": runs(**FLAT)}
    for target in TARGETS:
        for kind, messages in kinds.items():
            row = tried(target, messages)
            print(f"{target.package:38}{target.python:6}{kind:8}{row}", flush=True)


if __name__ == "__main__":
    main()
