"""The tap as a command, piped into target-postgres."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import simplejson
from psycopg.rows import dict_row
from singer_sdk.exceptions import FatalAPIError

from tap_homele.tap import TapHomele
from tests.sandbox import faults
from tests.singer import Output, catalog_of, clean_environment, parse, run, sync

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.sandbox import Sandbox

TIMES = ("created_at", "updated_at", "last_activity_at")


def load(stdout: str, url: str, folder: Path, schema: str, **target: Any) -> str:
    """Pipe the messages of a run into target-postgres; give what it confirms."""
    config = folder / "target.json"
    settings = {"sqlalchemy_url": url, "default_target_schema": schema, **target}
    config.write_text(json.dumps(settings))
    executable = Path(sys.executable).with_name("target-postgres")
    result = subprocess.run(
        [executable, "--config", config],
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
        row["id"]: {"additional_properties": None}
        | row
        | {name: utc(row, name) for name in TIMES}
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


# Deletes: FULL_TABLE with ACTIVATE_VERSION.


def full_table(
    folder: Path, sandbox: Sandbox, url: str, schema: str, **target: Any
) -> None:
    """Run the tap over the whole table into PostgreSQL."""
    output = sync(
        sandbox,
        catalog=catalog_of("FULL_TABLE"),
        emit_activate_version_messages=True,
    )
    load(as_lines(output), url, folder, schema, **target)


def as_lines(output: Output) -> str:
    lines = (simplejson.dumps(m, use_decimal=True) + "\n" for m in output.messages)
    return "".join(lines)


def marks(url: str, schema: str) -> dict[int, bool]:
    """Give the ids in the table, and which of them are marked as deleted."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            f'SELECT id, _sdc_deleted_at IS NOT NULL FROM "{schema}".customers'  # noqa: S608
        )
        return dict(rows.fetchall())


@pytest.fixture
def other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each run have a version of its own: it is the second in which it began."""
    seconds = itertools.count(1_800_000_000)
    initialized_at = property(lambda _: next(seconds) * 1000)
    monkeypatch.setattr(TapHomele, "initialized_at", initialized_at)


@pytest.mark.slow
@pytest.mark.usefixtures("other_versions")
@pytest.mark.parametrize("hard_delete", [False, True])
def test_deleted_customers(
    serve: Serve,
    tmp_path: Path,
    postgres_url: str,
    hard_delete: bool,  # noqa: FBT001
) -> None:
    schema = f"deletes_{hard_delete}"
    sandbox = serve(250)
    full_table(tmp_path, sandbox, postgres_url, schema, hard_delete=hard_delete)
    assert marks(postgres_url, schema) == dict.fromkeys(sandbox.customers, False)
    gone = list(sandbox.customers)[::50]
    for customer_id in gone:
        sandbox.delete(customer_id)

    full_table(tmp_path, sandbox, postgres_url, schema, hard_delete=hard_delete)

    there = dict.fromkeys(sandbox.customers, False)
    marked = {} if hard_delete else dict.fromkeys(gone, True)
    assert marks(postgres_url, schema) == there | marked


@pytest.mark.slow
@pytest.mark.usefixtures("other_versions")
@pytest.mark.parametrize("ending", ["killed", "failed"])
def test_a_full_table_that_does_not_end_well_leaves_every_row(
    serve: Serve, tmp_path: Path, postgres_url: str, ending: str, waited: list[float]
) -> None:
    schema = f"ending_{ending}"
    sandbox = serve(450)
    full_table(tmp_path, sandbox, postgres_url, schema, hard_delete=True)
    everyone = dict.fromkeys(sandbox.customers, False)
    sandbox.delete(next(iter(sandbox.customers)))

    output = Output([])
    if ending == "failed":
        sandbox.fail(faults.refused(500, "Server Error"), at=3, times=math.inf)
    with contextlib.suppress(FatalAPIError):
        sync(
            sandbox,
            catalog=catalog_of("FULL_TABLE"),
            emit_activate_version_messages=True,
            output=output,
            kill_after=math.inf if ending == "failed" else 300,
        )
    assert 200 <= len(output.records) < 449
    load(as_lines(output), postgres_url, tmp_path, schema, hard_delete=True)

    assert bool(waited) == (ending == "failed")
    assert marks(postgres_url, schema) == everyone
