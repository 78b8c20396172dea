"""The same customers into different targets: what arrives is what Homele has.

Each target runs in an environment of its own. ``docs/targets.md`` lists them.
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
from tests.singer import clean_environment, parse, run
from tests.test_postgres import in_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Row = dict[str, Any]

TIMES = ("created_at", "updated_at", "last_activity_at")
OBJECTS = ("lead_status", "lead_source", "owner", "priority", "country", "city")
ADDITIONAL = "additional_properties"


# Texts that a target, or the file that it loads, could take for something else.
NASTY = (
    *(
        "",
        " ",
        "  x  ",
        "NULL",
        "null",
        "None",
        "nan",
        "\\N",
        "\\",
        "\\\\",
        "\\n",
        "\\t",
    ),
    *('"', '""', "'", "''", '"a","b"', "a,b", "a;b", "a|b", "a\tb", "\t", "a\nb", "\n"),
    *("a\r\nb", "\r", "\x01", "a\x1fb", "\x7f", "{}", '{"a": 1}', "[1]", "0", "1e5"),
    *("true", "2026-01-01", "=1+1", "--", "$1", "%s", 'سارة "ڕۆژین"', "🏠"),
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Make customers of which each has a field without a column, and a nasty name."""
    sandbox = Sandbox.with_customers(120)
    for number, row in enumerate(sandbox.customers.values()):
        row["name"] = NASTY[number % len(NASTY)]
        row["tags"] = ["vip", {"since": number, "note": row["name"]}]
    first, _, third, *_ = sandbox.customers
    sandbox.change(first, owner=None, budget="123456789012345678.90")
    sandbox.change(third, **dict.fromkeys(OBJECTS), budget=None, last_activity_at=None)
    with sandbox.serve():
        yield sandbox


def expected(sandbox: Sandbox, *, flat: bool) -> dict[int, Row]:
    """Give what Homele has, as the tap promises to hand it on."""
    rows = {}
    for customer_id, customer in in_utc(sandbox).items():
        row = dict(customer)
        row[ADDITIONAL] = {"tags": row.pop("tags")}
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
        [*uvx(package), executable, "--config", folder / "target.json"],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=clean_environment(),
    )
    assert result.returncode == 0, result.stderr
    # The last state is confirmed; by some not, if the last batch was full.
    state = json.loads(result.stdout.splitlines()[-1])
    is_last = "replication_key_value" in state["bookmarks"]["customers"]
    assert is_last or config.get("batch_size_rows") == 1


def uvx(package: str) -> list[str]:
    """Give the command that has a package, and what it is pinned to."""
    name, *pins = package.split(" with ")
    return ["uvx", "--from", name, *(part for pin in pins for part in ("--with", pin))]


# Each of these loads messages into a table and gives the rows of a stream. ``size`` is
# how many rows a batch has.


def postgres(
    package: str, stdin: str, folder: Path, url: str, size: Row
) -> Callable[[str], list[Row]]:
    config: Row = {"default_target_schema": "matrix", **size}
    if package.startswith("meltanolabs"):
        config["sqlalchemy_url"] = url
    else:
        host = url.partition("host=")[2]
        config |= {"host": host, "port": 5432, "user": "postgres", "password": "x"}
        config |= {"dbname": "postgres"}
    in_own_environment(package, config, stdin, folder)

    def rows(stream: str) -> list[Row]:
        with psycopg.connect(url, row_factory=dict_row) as connection:
            return connection.execute(f"SELECT * FROM matrix.{stream}").fetchall()  # type: ignore[arg-type]  # noqa: S608

    return rows


def jsonl(
    package: str, stdin: str, folder: Path, _: str, size: Row
) -> Callable[[str], list[Row]]:
    config = {"destination_path": str(folder), "do_timestamp_file": False, **size}
    in_own_environment(package, config, stdin, folder)

    def rows(stream: str) -> list[Row]:
        # It appends: the last row of a customer counts.
        lines = (folder / f"{stream}.jsonl").read_text().splitlines()
        return [*{row["id"]: row for row in map(json.loads, lines)}.values()]

    return rows


def duckdb(
    package: str, stdin: str, folder: Path, _: str, size: Row
) -> Callable[[str], list[Row]]:
    file = folder / "warehouse.duckdb"
    config = {"filepath": str(file), "database": "warehouse", **size}
    config |= {"default_target_schema": "main"}
    in_own_environment(package, config, stdin, folder)

    def rows(stream: str) -> list[Row]:
        code = (
            "import duckdb, json, sys; "
            "database = duckdb.connect(sys.argv[1]); "
            "table = database.table(sys.argv[2]); "
            "rows = [dict(zip(table.columns, row)) for row in table.fetchall()]; "
            "print(json.dumps(rows, default=str))"
        )
        shown = subprocess.run(
            [*uvx(package), "python", "-c", code, file, stream],
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        found: list[Row] = json.loads(shown.stdout)
        return found

    return rows


def csv_file(
    package: str, stdin: str, folder: Path, _: str, size: Row
) -> Callable[[str], list[Row]]:
    # Else a run replaces the file of the one before.
    config = {"file_naming_scheme": "{stream_name}-{timestamp}.csv", **size}
    config |= {"output_path": str(folder)}
    in_own_environment(package, config, stdin, folder)

    def rows(stream: str) -> list[Row]:
        found: dict[str, Row] = {}
        for path in sorted(folder.glob(f"{stream}-*.csv")):
            with path.open(newline="") as file:
                found |= {row["id"]: row for row in csv.DictReader(file)}
        return [*found.values()]

    return rows


# The package, what reads it back, and what docs/targets.md says of it.
TARGETS: dict[str, tuple[Callable[..., Callable[[str], list[Row]]], str]] = {
    "meltanolabs-target-postgres==0.8.1": (postgres, "`jsonb`"),
    "pipelinewise-target-postgres==2.1.2": (
        postgres,
        "`jsonb`; empty text becomes null; control characters are spelled out: `\\n`",
    ),
    "target-duckdb==0.8.0 with duckdb==1.2.2": (
        duckdb,
        "`json`; empty text becomes null; with a newer duckdb rows are lost",
    ),
    "target-jsonl==0.1.4": (jsonl, "JSON"),
    "meltanolabs-target-csv==0.5.0": (
        csv_file,
        "text as Python writes it, so turn flattening on; a run replaces the file",
    ),
}


def spelled_out(text: str) -> str:
    """Spell a text as pipelinewise-target-postgres does."""
    return "".join(json.dumps(char)[1:-1] if char < " " else char for char in text)


def alike(row: Row, model: Row, package: str) -> Row:
    """Bring what a target stores to the spelling of the API, and no further."""
    row = {k: v for k, v in row.items() if not k.startswith("_sdc_")}
    if "csv" in package:
        # CSV has no null and no kinds.
        row = {k: v or (model[k] and None) for k, v in row.items()}
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


def as_promised(model: Row, package: str) -> Row:
    """Give what a target makes of a customer, if docs/targets.md says so."""
    model = dict(model)
    for name, value in model.items():
        if isinstance(value, str) and package.startswith("pipelinewise"):
            model[name] = spelled_out(value) or None
        elif value == "" and package.startswith("target-duckdb"):
            model[name] = None
    return model


SIZES: tuple[Row, ...] = ({}, {"batch_size_rows": 1}, {"batch_size_rows": 50})
CASES = [
    (package, flat, size)
    for package in TARGETS
    for flat, size in ((True, {}), *((False, size) for size in SIZES))
    if not size or ("jsonl" not in package and "csv" not in package)
]


@pytest.mark.parametrize(("package", "flat", "size"), CASES)
def test_what_arrives_is_what_homele_has(  # noqa: PLR0913, PLR0917
    sandbox: Sandbox,
    package: str,
    flat: bool,  # noqa: FBT001
    size: Row,
    tmp_path: Path,
    postgres_url: str,
) -> None:
    """A first run, and one after edits; the details, too."""
    options = {"flattening_enabled": True, "flattening_max_depth": 1} if flat else {}
    load, _ = TARGETS[package]
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS matrix CASCADE")
    state = None
    for count in (120, 121):
        result = run(tmp_path, sandbox, state=state, customer_details=True, **options)
        assert result.returncode == 0, result.stderr
        rows = load(package, result.stdout, tmp_path, postgres_url, size)
        state = parse(result.stdout).state

        models = expected(sandbox, flat=flat)
        for stream in ("customers", "customer_details"):
            found = rows(stream)
            assert len({int(row["id"]) for row in found}) == len(found) == count
            for row in found:
                row.pop("occupation", None)
                for part in ("id", "name"):
                    row.pop(f"occupation__{part}", None)
                model = models[int(row["id"])]
                found_row = alike(row, model, package)
                tags = found_row[ADDITIONAL]["tags"]
                found_row[ADDITIONAL] = {"tags": tags}  # the details have more
                assert found_row == as_promised(model, package)

        # For the second run.
        ids = list(sandbox.customers)
        for number, customer_id in enumerate(ids[::9]):
            sandbox.change(
                customer_id, name=NASTY[-number - 1], updated_at="2026-11-20T08:00:00Z"
            )
        added = {"id": max(ids) + 1, "name": "New", "last_activity_at": None}
        now = dict.fromkeys(("created_at", "updated_at"), "2026-11-20T08:00:00Z")
        sandbox.add(sandbox.customers[ids[0]] | added | now)


def test_they_are_listed() -> None:
    text = (README.parent / "docs" / "targets.md").read_text()

    for package, (_, objects) in TARGETS.items():
        name, _, version = package.partition("==")
        version = version.replace("==", " ")
        assert f"| `{name}` {version} | {objects} |" in text
