"""The SDK's own tests of a tap, and the settings that it gives to every tap."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import yaml
from singer_sdk.exceptions import ConfigValidationError
from singer_sdk.testing import SuiteConfig, get_tap_test_class

from tap_homele.client import HomeleStream
from tap_homele.tap import TapHomele
from tests.readme import OPERATING, block
from tests.sandbox import Sandbox
from tests.singer import catalog_of, config_for, sync

if TYPE_CHECKING:
    from tests.conftest import Serve

# The SDK's tests are made when this module is imported.
SANDBOX = Sandbox.with_customers(150).serve()

TestTapHomele = get_tap_test_class(
    TapHomele,
    config=config_for(SANDBOX),
    suite_config=SuiteConfig(max_records_limit=None),
    parse_env_config=False,
)


@pytest.fixture
def sandbox(serve: Serve) -> Sandbox:
    return serve(150)


def test_stream_maps(sandbox: Sandbox) -> None:
    output = sync(
        sandbox,
        stream_maps={
            "customers": {
                "phone1": "md5(phone1)",
                "email1": None,
                "budget_in_thousands": "float(budget or 0) / 1000",
                "__alias__": "leads",
                "__filter__": "owner is not None",
            }
        },
    )

    assert {message["stream"] for message in output.of("RECORD")} == {"leads"}
    rows = {k: row for k, row in sandbox.customers.items() if row["owner"]}
    assert sorted(output.ids) == sorted(rows)
    for record in output.records:
        row = rows[record["id"]]
        assert record["phone1"] == hashlib.md5(row["phone1"].encode()).hexdigest()  # noqa: S324
        assert "email1" not in record
        assert record["budget_in_thousands"] == float(row["budget"] or 0) / 1000
    output.validate()


def test_budget_as_a_number(sandbox: Sandbox) -> None:
    """By the stream map of operating.md."""
    (extractor,) = yaml.safe_load(block("## Numbers", "yaml", OPERATING))

    output = sync(sandbox, **extractor["config"])

    (schema,) = output.of("SCHEMA")
    assert "number" in schema["schema"]["properties"]["budget"]["type"]
    assert len(output.records) == 150
    for record in output.records:
        budget = sandbox.customers[record["id"]]["budget"]
        assert record["budget"] == (float(budget) if budget else None)
    output.validate()


def test_flattening(sandbox: Sandbox) -> None:
    odd = min(sandbox.customers)
    sandbox.change(
        odd,
        occupation="Engineer",
        owner={"id": 1, "name": "Rawa", "email": "rawa@example.com"},
        phone1={"number": "0750"},
    )
    output = sync(sandbox, flattening_enabled=True, flattening_max_depth=1)

    assert len(output.records) == 150
    (schema,) = output.of("SCHEMA")
    for record in output.records:
        assert record.keys() == schema["schema"]["properties"].keys()
        if record["id"] == odd:
            assert json.loads(record["additional_properties"]) == {
                "occupation": "Engineer",
                "owner.email": "rawa@example.com",
                "phone1": {"number": "0750"},
            }
        status = sandbox.customers[record["id"]]["lead_status"] or {}
        assert record["lead_status__id"] == status.get("id")
        assert record["lead_status__name"] == status.get("name")
    output.validate()


def test_flattening_to_no_depth_is_none(sandbox: Sandbox) -> None:
    output = sync(sandbox, flattening_enabled=True, flattening_max_depth=0)

    owners = {record["id"]: record["owner"] for record in output.records}
    assert owners == {row["id"]: row["owner"] for row in sandbox.customers.values()}


def test_batches(sandbox: Sandbox, tmp_path: Path) -> None:
    output = sync(
        sandbox,
        batch_config={
            "encoding": {"format": "jsonl", "compression": "gzip"},
            "storage": {"root": tmp_path.as_uri(), "prefix": "customers-"},
        },
    )

    records: list[dict[str, Any]] = []
    for batch in output.of("BATCH"):
        for uri in batch["manifest"]:
            path = Path(url2pathname(urlsplit(uri).path))
            lines = gzip.decompress(path.read_bytes()).splitlines()
            records += [json.loads(line) for line in lines]
    assert output.records == []
    assert {record["id"]: record for record in records} == {
        row["id"]: row | {"additional_properties": None}
        for row in sandbox.customers.values()
    }
    assert "replication_key_value" in output.state["bookmarks"]["customers"]


def test_activate_version(sandbox: Sandbox) -> None:
    output = sync(
        sandbox,
        catalog=catalog_of("FULL_TABLE"),
        emit_activate_version_messages=True,
    )

    assert output.kinds == ["SCHEMA", "RECORD", "ACTIVATE_VERSION", "STATE"]
    (message,) = output.of("ACTIVATE_VERSION")
    versions = {record["version"] for record in output.of("RECORD")}
    assert versions == {message["version"]}
    assert len(output.records) == 150


def test_batches_do_not_activate_a_version(sandbox: Sandbox, tmp_path: Path) -> None:
    """What comes in files has no version, so a target would delete it."""
    with pytest.raises(ConfigValidationError) as error:
        sync(
            sandbox,
            catalog=catalog_of("FULL_TABLE"),
            emit_activate_version_messages=True,
            batch_config={
                "encoding": {"format": "jsonl", "compression": "gzip"},
                "storage": {"root": tmp_path.as_uri(), "prefix": "customers-"},
            },
        )

    assert error.value.errors == [
        "emit_activate_version_messages: batches carry no version to activate."
    ]


def test_a_state_between_batches_is_behind_them(serve: Serve, tmp_path: Path) -> None:
    sandbox = serve(10_250)

    output = sync(
        sandbox,
        batch_config={
            "encoding": {"format": "jsonl", "compression": "gzip"},
            "storage": {"root": tmp_path.as_uri(), "prefix": "customers-"},
        },
    )

    assert output.kinds == ["SCHEMA", "BATCH", "STATE", "BATCH", "STATE"]
    # The first batch has 10,000 customers; its state goes on within them.
    killed = sync(sandbox, state=output.states[0])
    assert 250 <= len(killed.ids) <= 350


def test_deselected_columns_are_left_out(sandbox: Sandbox) -> None:
    catalog = catalog_of()
    metadata = catalog["customers"].metadata
    metadata[("properties", "phone1")].selected = False

    output = sync(sandbox, catalog=catalog)

    assert len(output.records) == 150
    assert all("phone1" not in record for record in output.records)
    (schema,) = output.of("SCHEMA")
    assert "phone1" not in schema["schema"]["properties"]


@pytest.mark.parametrize("method", ["INCREMENTAL", "FULL_TABLE"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flattening_enabled": True, "flattening_max_depth": 1},
        {
            "stream_maps": {
                "customers": {"email1": None, "__filter__": "owner is not None"},
                "leads": {"__source__": "customers", "name": "name"},
            }
        },
    ],
)
def test_whole_records(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    settings: dict[str, Any],
) -> None:
    """What is not walked through is the same as what the SDK would have made of it."""
    # The states hold when a scan began.
    sandbox = serve(150, clock=lambda: 1_780_000_000)
    monkeypatch.setattr(
        TapHomele, "initialized_at", property(lambda _: 1_800_000_000_000)
    )
    own, calls = vars(HomeleStream)["_generate_record_messages"], []

    def counted(self: HomeleStream, record: dict[str, Any]) -> Any:
        calls.append(record["id"])
        return own(self, record)

    monkeypatch.setattr(HomeleStream, "_generate_record_messages", counted)
    ours = sync(sandbox, catalog=catalog_of(method, **settings), **settings)
    assert len(calls) == 150
    monkeypatch.delattr(HomeleStream, "_generate_record_messages")
    theirs = sync(sandbox, catalog=catalog_of(method, **settings), **settings)

    for message in (*ours.messages, *theirs.messages):
        message.pop("time_extracted", None)
    assert ours.messages == theirs.messages


def test_what_is_not_selected_does_not_come(sandbox: Sandbox) -> None:
    catalog = catalog_of()
    for breadcrumb in (("phone1",), ("owner", "name")):
        path = tuple(part for name in breadcrumb for part in ("properties", name))
        catalog["customers"].metadata[path].selected = False

    output = sync(sandbox, catalog=catalog)

    assert len(output.records) == 150
    for record in output.records:
        assert "phone1" not in record
        assert not record["owner"] or list(record["owner"]) == ["id"]


def test_the_target_gets_all_with_each_state(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records wait for a state in the buffer of standard output, and no longer."""
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(io.BufferedWriter(raw, 10**7))  # type: ignore[type-var]
    monkeypatch.setattr("sys.stdout", stdout)
    there: list[int] = []
    sandbox.meanwhile = lambda: there.append(raw.getvalue().count(b'"RECORD"'))

    TapHomele(config=config_for(sandbox)).sync_all()

    # The last page adds nothing to the state, and is asked for twice.
    assert there == [0, 100, 100, 100]
    assert raw.getvalue().count(b'"RECORD"') == 150
