"""The tap as a command, piped into target-postgres."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from tests.singer import clean_environment, parse, run

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.sandbox import Sandbox

TIMES = ("created_at", "updated_at", "last_activity_at")


def load(stdout: str, url: str, folder: Path, schema: str) -> str:
    """Pipe the messages of a run into target-postgres; give what it confirms."""
    config = folder / "target.json"
    settings = {"sqlalchemy_url": url, "default_target_schema": schema}
    config.write_text(json.dumps(settings))
    target = Path(sys.executable).with_name("target-postgres")
    result = subprocess.run(
        [target, "--config", config],
        input=stdout,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def table(url: str, schema: str) -> dict[int, dict[str, Any]]:
    """Give the rows of the table as the API would write them."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        rows = connection.execute(f'SELECT * FROM "{schema}".customers').fetchall()  # noqa: S608
    for row in rows:
        for name in [name for name in row if name.startswith("_sdc_")]:
            del row[name]
        for name in TIMES:
            if row[name]:
                row[name] = row[name].replace(tzinfo=timezone.utc).isoformat()
        if row["expected_sale_date"]:
            row["expected_sale_date"] = row["expected_sale_date"].isoformat()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def in_utc(sandbox: Sandbox) -> dict[int, dict[str, Any]]:
    def utc(row: dict[str, Any], name: str) -> str | None:
        if row[name] is None:
            return None
        moment = datetime.fromisoformat(row[name])
        return moment.astimezone(timezone.utc).isoformat()

    return {
        row["id"]: row | {name: utc(row, name) for name in TIMES}
        for row in sandbox.customers.values()
    }


def test_the_table_equals_homele(
    serve: Serve, tmp_path: Path, postgres_url: str
) -> None:
    sandbox = serve(450)
    latest = sorted(sandbox.customers.values(), key=lambda row: row["updated_at"])[-7:]
    for row in latest:
        # Erbil's offset: a target that drops it would store another instant.
        sandbox.change(row["id"], updated_at="2026-02-20T23:30:00+03:00")

    first = run(tmp_path, sandbox)
    assert first.returncode == 0, first.stderr
    confirmed = load(first.stdout, postgres_url, tmp_path, "equals")

    assert table(postgres_url, "equals") == in_utc(sandbox)

    for row in latest:
        sandbox.edit(row["id"], budget="123456789012345678.90", last_name=None)
    state = json.loads(confirmed.splitlines()[-1])
    second = run(tmp_path, sandbox, state=state)
    assert second.returncode == 0, second.stderr
    assert len(parse(second.stdout).records) == 7
    load(second.stdout, postgres_url, tmp_path, "equals")

    assert table(postgres_url, "equals") == in_utc(sandbox)
