"""The same customers into different targets: what arrives is what Homele has.

Each target runs in an environment of its own. The README's table is made of this list.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.readme import README
from tests.sandbox import Sandbox
from tests.singer import clean_environment, run
from tests.test_postgres import in_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Row = dict[str, Any]

TIMES = ("created_at", "updated_at", "last_activity_at")
OBJECTS = ("lead_status", "lead_source", "owner", "priority", "country", "city")
ADDITIONAL = "additional_properties"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox.with_customers(120)
    first, second, third, *_ = sandbox.customers
    sandbox.change(
        first,
        name='سارة "ڕۆژین", O\'Neill\nئازاد 🏠 \\N',  # noqa: RUF001
        owner=None,
        occupation="طبيب",
        budget="123456789012345678.90",
    )
    sandbox.change(second, tags=["vip", {"since": 2024}])
    sandbox.change(third, **dict.fromkeys(OBJECTS), budget=None, last_activity_at=None)
    with sandbox.serve():
        yield sandbox


def expected(sandbox: Sandbox, *, flat: bool) -> dict[int, Row]:
    """Give what Homele has, as the tap promises to hand it on."""
    rows = {}
    for customer_id, customer in in_utc(sandbox).items():
        row = dict(customer)
        extra = {name: row.pop(name) for name in ("occupation", "tags") if name in row}
        row[ADDITIONAL] = extra or None
        if flat:
            for name in OBJECTS:
                related = row.pop(name) or {}
                row[f"{name}__id"] = related.get("id")
                row[f"{name}__name"] = related.get("name")
        rows[customer_id] = row
    return rows


def in_own_environment(package: str, config: Row, stdin: str, folder: Path) -> None:
    """Pipe messages into the first command of a package that is a target."""
    (folder / "target.json").write_text(json.dumps(config))
    executable = re.sub(r"^(meltanolabs|pipelinewise)-|==.*", "", package)
    result = subprocess.run(
        ["uvx", "--from", package, executable, "--config", folder / "target.json"],  # noqa: S607
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=clean_environment(),
    )
    assert result.returncode == 0, result.stderr
    # The last state is confirmed.
    state = json.loads(result.stdout.splitlines()[-1])
    assert state["bookmarks"]["customers"]["replication_key_value"]


def postgres(package: str, stdin: str, folder: Path, url: str) -> list[Row]:
    config: Row = {"default_target_schema": "matrix"}
    if package.startswith("meltanolabs"):
        config["sqlalchemy_url"] = url
    else:
        host = url.partition("host=")[2]
        config |= {"host": host, "port": 5432, "user": "postgres", "password": "x"}
        config |= {"dbname": "postgres"}
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute("DROP SCHEMA IF EXISTS matrix CASCADE")
        connection.commit()
        in_own_environment(package, config, stdin, folder)
        return connection.execute("SELECT * FROM matrix.customers").fetchall()


def jsonl(package: str, stdin: str, folder: Path, _: str) -> list[Row]:
    config = {"destination_path": str(folder), "do_timestamp_file": False}
    in_own_environment(package, config, stdin, folder)
    lines = (folder / "customers.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def duckdb(package: str, stdin: str, folder: Path, _: str) -> list[Row]:
    file = folder / "warehouse.duckdb"
    config = {"filepath": str(file), "database": "warehouse"}
    config |= {"default_target_schema": "main"}
    in_own_environment(package, config, stdin, folder)
    code = (
        "import duckdb, json, sys; "
        "table = duckdb.connect(sys.argv[1]).sql('FROM customers'); "
        "rows = [dict(zip(table.columns, row)) for row in table.fetchall()]; "
        "print(json.dumps(rows, default=str))"
    )
    shown = subprocess.run(
        ["uvx", "--from", package, "python", "-c", code, file],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    rows: list[Row] = json.loads(shown.stdout)
    return rows


def csv_file(package: str, stdin: str, folder: Path, _: str) -> list[Row]:
    in_own_environment(package, {"output_path": str(folder)}, stdin, folder)
    with (folder / "customers.csv").open(newline="") as file:
        return [*csv.DictReader(file)]


# The package, what reads it back, and what the README says of it.
TARGETS: dict[str, tuple[Callable[..., list[Row]], str]] = {
    "meltanolabs-target-postgres==0.8.1": (postgres, "`jsonb`"),
    "pipelinewise-target-postgres==2.1.2": (
        postgres,
        "`jsonb`; a line break in a text arrives as the two characters `\\n`",
    ),
    "target-duckdb==0.8.0": (duckdb, "`json`"),
    "target-jsonl==0.1.4": (jsonl, "JSON"),
    "meltanolabs-target-csv==0.5.0": (
        csv_file,
        "text as Python writes it, so turn flattening on",
    ),
}


def alike(row: Row, model: Row, package: str) -> Row:
    """Bring what a target stores to the spelling of the API, and no further."""
    row = {k: v for k, v in row.items() if not k.startswith("_sdc_")}
    if package.startswith("pipelinewise"):
        row["name"] = row["name"].replace("\\n", "\n")
    if "csv" in package:
        # CSV has no null and no kinds.
        row = {k: v or None for k, v in row.items()}
        for name in row:
            if isinstance(model[name], int):
                row[name] = int(row[name])
    for name in TIMES:
        if row[name]:
            row[name] = str(row[name]).replace(" ", "T")
            row[name] += "" if row[name].endswith("+00:00") else "+00:00"
    if row["expected_sale_date"]:
        day = str(row["expected_sale_date"])
        row["expected_sale_date"] = day.removesuffix(" 00:00:00")
    for name in (*OBJECTS, ADDITIONAL):
        if isinstance(row.get(name), str):
            read = json.loads if row[name].startswith('{"') else ast.literal_eval
            row[name] = read(row[name])
    return row


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("package", TARGETS)
def test_what_arrives_is_what_homele_has(
    sandbox: Sandbox,
    package: str,
    flat: bool,  # noqa: FBT001
    tmp_path: Path,
    postgres_url: str,
) -> None:
    options = {"flattening_enabled": True, "flattening_max_depth": 1} if flat else {}
    result = run(tmp_path, sandbox, **options)
    assert result.returncode == 0, result.stderr
    load, _ = TARGETS[package]

    rows = load(package, result.stdout, tmp_path, postgres_url)

    models = expected(sandbox, flat=flat)
    assert len({int(row["id"]) for row in rows}) == len(models) == 120
    for row in rows:
        model = models[int(row["id"])]
        assert alike(row, model, package) == model


def test_the_readme_lists_them() -> None:
    text = README.read_text()

    for package, (_, objects) in TARGETS.items():
        name, _, version = package.partition("==")
        assert f"| `{name}` {version} | {objects} |" in text
