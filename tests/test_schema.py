"""The contract: what is declared, against what the vendor documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tap_homele.streams import CustomersStream
from tests.singer import clean_environment

# Field, type, format, and whether the vendor says that it may be null.
DOCUMENTED = """
id                  integer  -          no
sequential_number   integer  -          no
name                string   -          no
first_name          string   -          no
last_name           string   -          yes
phone1              string   -          no
phone2              string   -          yes
phone3              string   -          yes
email1              string   -          yes
address             string   -          yes
budget              string   -          yes
budget_currency     string   -          yes
expected_sale_date  string   date       yes
lead_status         object   -          yes
lead_source         object   -          yes
owner               object   -          yes
priority            object   -          yes
country             object   -          yes
city                object   -          yes
created_at          string   date-time  no
updated_at          string   date-time  no
last_activity_at    string   date-time  yes
"""
FIELDS = [line.split() for line in DOCUMENTED.split("\n") if line]

PROPERTIES: dict[str, Any] = CustomersStream.schema["properties"]
SNAPSHOT = Path(__file__).parent / "snapshots" / "discover.json"


def test_the_columns_are_the_documented_fields() -> None:
    documented = [name for name, *_ in FIELDS]
    assert list(PROPERTIES) == [*documented, "additional_properties"]
    assert PROPERTIES["additional_properties"]["type"] == ["null", "object"]


def test_the_schema_is_spelled_as_more_targets_take_it() -> None:
    assert list(CustomersStream.schema) == ["type", "properties", "required"]
    assert CustomersStream.schema["required"] == ["id"]


@pytest.mark.parametrize(("name", "kind", "form", "nullable"), FIELDS)
def test_a_column_holds_what_is_documented(
    name: str, kind: str, form: str, nullable: str
) -> None:
    column = PROPERTIES[name]

    # All but the key may be null, also where the vendor says otherwise.
    assert nullable in {"yes", "no"}
    assert column["type"] == (kind if name == "id" else ["null", kind])
    # A decimal written as text keeps every digit.
    expected = (
        "singer.decimal" if name == "budget" else form.replace("-", "", form == "-")
    )
    assert column.get("format", "") == expected
    assert column["description"].endswith(".")
    if kind == "object":
        assert {key: value["type"] for key, value in column["properties"].items()} == {
            "id": ["null", "integer"],
            "name": ["null", "string"],
        }
        for value in column["properties"].values():
            assert value["description"].endswith(".")


def test_the_catalog_is_the_one_that_was_reviewed(tmp_path: Path) -> None:
    """The SDK sorts by name; the details are there only if they are asked for."""
    reviewed = json.loads(SNAPSHOT.read_text())["streams"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auth_token": "1|none", "customer_details": True}))

    def discover(*options: str) -> list[dict[str, Any]]:
        result = subprocess.run(
            [sys.executable, "-m", "tap_homele", *options, "--discover"],
            capture_output=True,
            text=True,
            check=True,
            env=clean_environment(),
        )
        streams: list[dict[str, Any]] = json.loads(result.stdout)["streams"]
        return streams

    assert discover() == reviewed[1:]
    assert discover("--config", str(config)) == reviewed
