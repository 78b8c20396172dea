"""What CONTRIBUTING says of a new field and a new stream, done as it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from typing import TYPE_CHECKING, Any

import pytest
from flask import request
from singer_sdk.exceptions import FatalAPIError
from singer_sdk.singerlib import Catalog

from tap_homele import streams
from tap_homele.tap import TapHomele
from tests.readme import CONTRIBUTING, block
from tests.sandbox.server import API_PATH
from tests.singer import Output, Writer, clean_environment, config_for
from tests.test_demo import port
from tests.test_meltano import project

if TYPE_CHECKING:
    from pathlib import Path

    from tap_homele.client import HomeleStream
    from tests.conftest import Serve

__all__ = ["port", "project"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_add_a_field(project: Path) -> None:
    text = CONTRIBUTING.read_text().partition("## Add a field")[2]
    (line,) = re.findall(r"`(column\(.*\),)`", text)
    (made_up,) = re.findall(r'`("website": .*,)`', text)
    (documented,) = re.findall(r"`(website .*)`\.", text)

    def insert(file: str, before: str, inserted: str) -> None:
        path = project / file
        old = path.read_text()
        assert old.count(before) == 1
        path.write_text(old.replace(before, inserted + before))

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=project,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    tests = [f"tests/test_{name}.py" for name in ("schema", "documents")]
    tests += ["tests/test_postgres.py::test_the_table_equals_homele"]
    tests += ["tests/test_customers.py::test_the_customers_of_the_sandbox_are_varied"]
    pytest_ = ("pytest", "-q", "-n0", *tests)

    insert(
        "tap_homele/streams.py",
        ")\n\nADDITIONAL",
        f"    {line}\n",
    )
    insert("tests/sandbox/customers.py", '        "address": ', f"        {made_up}\n")
    insert("tests/test_schema.py", '"""\nFIELDS', f"{documented}\n")
    # Until it is generated anew, the tests say so.
    drift = run("pytest", "-q", "-n0", "tests/test_documents.py", "-k", "is_generated")
    assert "FAILED" in drift.stdout
    generated = run("tests.generate")
    assert generated.returncode == 0, generated.stderr

    result = run(*pytest_)

    assert result.returncode == 0, result.stdout
    assert (
        "| `website` | `text` | The web site. |" in (project / "README.md").read_text()
    )


@pytest.mark.parametrize("method", ["INCREMENTAL", "FULL_TABLE"])
@pytest.mark.parametrize("fails", [True, False])
def test_add_a_stream(serve: Serve, method: str, *, fails: bool) -> None:
    """Deletes are announced after its last record, and not if it fails."""
    names: dict[str, Any] = {"t": typing, **vars(streams)}
    exec(block("## Add a stream", "python", CONTRIBUTING), names)  # noqa: S102
    sandbox = serve(150)
    rows = [{"id": 1, "name": "Website"}, {"id": 2, "name": "إحالة"}]
    answers = [
        {
            "success": True,
            "data": rows[at : at + 1],
            "meta": {"has_more": not at, "next_cursor": None if at else "b"},
        }
        for at in (0, 1)
    ]

    def answer() -> Any:
        if fails and request.args.get("cursor"):
            return {"success": False, "message": "Gone."}, 410
        return answers[bool(request.args.get("cursor"))]

    sandbox.app.add_url_rule(f"{API_PATH}/lead-sources", "sources", answer)

    class WithSources(TapHomele):
        def discover_streams(self) -> list[HomeleStream]:
            return [*super().discover_streams(), names["LeadSourcesStream"](self)]

    output = Output([])
    settings = {"emit_activate_version_messages": True}
    catalog = json.loads(
        WithSources(config=dict(settings), validate_config=False).catalog_json_text
    )
    for entry in catalog["streams"]:
        if entry["tap_stream_id"] == "customers":
            entry["replication_method"] = method
    tap = WithSources(
        config=config_for(sandbox, **settings),
        catalog=Catalog.from_dict(catalog),
        message_writer=Writer(output.messages),
    )

    if fails:
        with pytest.raises(FatalAPIError, match="Homele refused"):
            tap.sync_all()
    else:
        tap.sync_all()

    expected = rows[:1] if fails else rows
    assert output.records_of("lead_sources") == [
        row | {"additional_properties": None} for row in expected
    ]
    assert len(output.records_of("customers")) == 150
    assert "/lead-sources?per_page=100" in sandbox.urls
    output.validate()
    activated = output.of("ACTIVATE_VERSION")
    # It has no replication key, so it is a full table.
    streams_ = ["customers"] * (method == "FULL_TABLE")
    streams_ += ["lead_sources"] * (not fails)
    assert [message["stream"] for message in activated] == streams_
    for message in activated:
        at = output.messages.index(message)
        later = output.messages[at:]
        assert message["stream"] not in [
            m["stream"] for m in later if m["type"] == "RECORD"
        ]
