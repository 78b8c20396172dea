"""Settings: what is refused at the start, and how an address is completed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from singer_sdk.exceptions import ConfigValidationError

from tap_homele.config import base_url
from tap_homele.tap import TapHomele
from tests.singer import clean_environment, config_for, run
from tests.world import warnings

if TYPE_CHECKING:
    from tests.conftest import Serve

ROOT = Path(__file__).parent.parent
TOKEN = {"auth_token": "1|abc"}


def errors(config: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigValidationError) as error:
        TapHomele(config=config)
    return error.value.errors


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {},
            (
                "auth_token: it is missing. Make one in Homele under Settings > API "
                "Integration."
            ),
        ),
        # The token itself is never shown.
        ({"auth_token": ["1|secret"]}, "auth_token: it must be string."),
        (
            TOKEN | {"user_agent": "a\nb"},
            "user_agent: it must be plain ASCII on one line.",
        ),
        (
            TOKEN | {"api_url": "https://crm.acme.example:x"},
            (
                "api_url: it must be an https address without user, password, ? and "
                "#, such as https://crm.homele.com/api/v2/crm."
            ),
        ),
        (
            TOKEN | {"pagesize": 5},
            "'pagesize': there is no such setting.",
        ),
        (
            TOKEN | {"filter_owner_id": [1], "pagesize": 5},
            "'filter_owner_id', 'pagesize': there is no such setting.",
        ),
        (
            TOKEN | {"page_size": 0},
            "page_size: it must be integer from 1 to 100.",
        ),
        (
            TOKEN | {"page_size": 101},
            "page_size: it must be integer from 1 to 100.",
        ),
        (
            TOKEN | {"filter_owner_ids": ["Dana"]},
            "filter_owner_ids: each must be integer.",
        ),
        # Nor is another value: it can be a name, or a token in the wrong place.
        (TOKEN | {"filter_query": ["Sara"]}, "filter_query: it must be string."),
        (TOKEN | {"api_url": ["https://1|abc@x"]}, "api_url: it must be string."),
        (TOKEN | {"stream_maps": "1|abc"}, "stream_maps: it must be object."),
        (
            TOKEN | {"scan_by": "1|abc"},
            "scan_by: it must be one of auto, cursor, created_date.",
        ),
        (
            TOKEN | {"emit_activate_version_messages": "1|abc"},
            "emit_activate_version_messages: it must be boolean.",
        ),
        (
            TOKEN | {"start_date": "yesterday"},
            (
                "start_date: it must be a date such as 2026-01-31 or a time such as "
                "2026-01-31T08:00:00Z."
            ),
        ),
        (
            TOKEN | {"start_date": "2026-13-01"},
            (
                "start_date: it must be a date such as 2026-01-31 or a time such as "
                "2026-01-31T08:00:00Z."
            ),
        ),
        (
            TOKEN | {"filter_created_from": "2026-02-30"},
            "filter_created_from: it must be a date such as 2026-01-31.",
        ),
        (
            TOKEN | {"filter_created_to": "31.01.2026"},
            "filter_created_to: it must be a date such as 2026-01-31.",
        ),
        (
            TOKEN | {"filter_created_to": "20260131"},
            "filter_created_to: it must be a date such as 2026-01-31.",
        ),
        (
            TOKEN
            | {"filter_created_from": "2026-02-01", "filter_created_to": "2026-01-31"},
            "filter_created_from: it is later than filter_created_to.",
        ),
        (
            TOKEN | {"api_url": "crm.acme.example"},
            (
                "api_url: it must be an https address without user, password, ? and "
                "#, such as https://crm.homele.com/api/v2/crm."
            ),
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(
    config: dict[str, Any], sentence: str
) -> None:
    (error,) = errors(config)
    # The description of the setting follows.
    assert error.startswith(sentence)
    assert "secret" not in error


def test_a_wrong_setting_is_refused_also_when_there_is_a_state() -> None:
    bookmark = {"replication_key_value": "2026-01-01", "asked": "something"}

    with pytest.raises(ConfigValidationError):
        TapHomele(
            config=TOKEN | {"api_url": "crm.acme.example"},
            state={"bookmarks": {"customers": bookmark}},
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("api_url", None), ("api_url", ""), ("page_size", None)],
)
def test_nothing_is_not_the_default(name: str, value: object) -> None:
    assert errors(TOKEN | {name: value}) == [
        f"{name}: it must not be empty; leave it out for the default."
    ]


@pytest.mark.parametrize(
    "query", [" ", "\t\n", "\u00a0", "\u200e\u200f", "\ufeff ", "\u3000"]
)
def test_a_search_for_nothing_that_can_be_seen_is_refused(query: str) -> None:
    """Laravel would take it for none, and everybody would come."""
    assert errors(TOKEN | {"filter_query": query}) == [
        "filter_query: it must be a name or a part of one, and not only spaces."
    ]


@pytest.mark.parametrize("query", ["0", "\u200e\u0633\u200f", " Sara ", "%", "-"])
def test_a_search_for_anything_that_can_be_seen_is_taken(query: str) -> None:
    TapHomele(config=TOKEN | {"filter_query": query})


@pytest.mark.parametrize(
    "name", ["filter_lead_status_ids", "filter_owner_ids", "filter_lead_source_ids"]
)
@pytest.mark.parametrize("value", [[1, None], [""], [1, " "]])
def test_an_empty_part_of_a_list_is_refused(name: str, value: list[object]) -> None:
    (error,) = errors(TOKEN | {name: value})

    assert error.startswith(f"{name}: each must be integer.")


@pytest.mark.parametrize("query", ["Sara, Ahmed", ",", "true", "False ", "TRUE"])
def test_a_search_that_homele_may_take_apart_is_warned_of(
    caplog: pytest.LogCaptureFixture, query: str
) -> None:
    TapHomele(config=TOKEN | {"filter_query": query})

    assert warnings(caplog) == [
        (
            "filter_query: Homele may not search for it as it is, but for each part of "
            "it between commas, and for nothing if it is true or false. Compare the "
            "number of customers with what Homele shows you."
        )
    ]


@pytest.mark.parametrize("query", ["Sara", "truest", "untrue", ""])
def test_another_search_is_not_warned_of(
    caplog: pytest.LogCaptureFixture, query: str
) -> None:
    TapHomele(config=TOKEN | {"filter_query": query})

    assert warnings(caplog) == []


def test_an_empty_token_is_refused() -> None:
    assert errors({"auth_token": ""}) == [
        (
            "auth_token: it is empty. Make one in Homele under Settings > API "
            "Integration."
        )
    ]


@pytest.mark.parametrize(
    "token", [" ", "Bearer 1|abc", "1|abc ", "1|abc\n", "1|a bc", "1|ä"]
)
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token: str) -> None:
    sentence = (
        "auth_token: it must be the token alone, such as 1|abc123, without 'Bearer' "
        "and without spaces."
    )

    assert errors({"auth_token": token}) == [sentence]


def test_as_a_command_a_wrong_setting_ends_with_1(serve: Serve, tmp_path: Path) -> None:
    sandbox = serve(1)

    result = run(tmp_path, sandbox, page_size=500)

    assert result.returncode == 1
    assert "page_size: it must be integer from 1 to 100." in result.stderr
    assert result.stdout == ""
    assert sandbox.requests == []


@pytest.mark.parametrize("option", ["state", "catalog"])
def test_a_file_that_is_not_json_is_named(
    serve: Serve, tmp_path: Path, option: str
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(serve(1))))
    empty = tmp_path / "empty.json"
    empty.touch()

    result = subprocess.run(
        [
            *(sys.executable, "-m", "tap_homele"),
            *("--config", config, f"--{option}", empty),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )

    assert result.returncode == 1
    assert f"The file of --{option}, {empty}, cannot be read: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("api_url", "completed"),
    [
        ("https://crm.homele.com/api/v2/crm", "https://crm.homele.com/api/v2/crm"),
        ("https://crm.homele.com/api/v2/crm/", "https://crm.homele.com/api/v2/crm"),
        ("https://crm.acme.example", "https://crm.acme.example/api/v2/crm"),
        ("https://crm.acme.example/", "https://crm.acme.example/api/v2/crm"),
        (" https://crm.acme.example:8443 ", "https://crm.acme.example:8443/api/v2/crm"),
        ("https://acme.example/homele/v2", "https://acme.example/homele/v2"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api/v2/crm"),
        ("http://localhost", "http://localhost/api/v2/crm"),
        ("http://[::1]:8000", "http://[::1]:8000/api/v2/crm"),
    ],
)
def test_the_address_is_completed(api_url: str, completed: str) -> None:
    assert base_url(api_url) == completed


@pytest.mark.parametrize(
    "api_url",
    [
        "",
        "crm.acme.example",
        "http://crm.acme.example",
        "ftp://crm.acme.example",
        "https://",
        "https://user:secret@crm.acme.example",
        "https://crm.acme.example/api?x=1",
        "https://crm.acme.example/#api",
        "https://crm acme.example",
        "https://crm..example",
        "https://crm.acme.example:port",
        "http://[::1",
        "https://token@crm.acme.example",
        "https://me:secret/x@crm.acme.example",
        "https://exa%mple.com",
        "https://*",
    ],
)
def test_an_address_that_no_token_should_go_to_is_refused(api_url: str) -> None:
    assert base_url(api_url) == ""


def test_a_bare_domain_is_enough(serve: Serve, tmp_path: Path) -> None:
    sandbox = serve(1)

    result = run(tmp_path, sandbox, api_url=f"http://127.0.0.1:{sandbox.port}/")

    assert result.returncode == 0
    assert sandbox.requests[0].url == "/api/v2/crm/customers?per_page=100"


def given_by_the_sdk() -> dict[str, dict[str, Any]]:
    schema: dict[str, dict[str, Any]] = {"properties": {}}
    TapHomele.append_builtin_config(schema)
    return schema["properties"]


def own() -> dict[str, dict[str, Any]]:
    # The SDK adds its settings to the tap's.
    properties = TapHomele.config_jsonschema["properties"]
    return {k: v for k, v in properties.items() if k not in given_by_the_sdk()}


def test_every_setting_has_a_description() -> None:
    for name, setting in own().items():
        assert setting["description"], name


def test_meltano_yml_has_the_settings_of_the_tap() -> None:
    project = yaml.safe_load((ROOT / "meltano.yml").read_text())
    plugin = project["plugins"]["extractors"][0]
    listed = {setting["name"]: setting for setting in plugin["settings"]}

    assert list(listed) == [*own(), *given_by_the_sdk()]
    for name, setting in own().items():
        assert listed[name]["description"] == setting["description"], name
        assert listed[name].get("value") == setting.get("default"), name
        assert listed[name].get("sensitive", False) == setting.get("secret", False)


def test_secrets_example_lists_every_variable() -> None:
    """Of the tap and of target-postgres, with a comment each, in the same order."""
    plugins = yaml.safe_load((ROOT / "meltano.yml").read_text())["plugins"]
    expected = [
        f"{plugin['namespace']}_{setting['name']}".upper()
        for plugin in (plugins["extractors"][0], plugins["loaders"][0])
        for setting in plugin["settings"]
    ]
    lines = (ROOT / ".secrets.example").read_text().splitlines()
    listed: list[str] = []
    for above, line in itertools.pairwise(lines):
        name, is_variable, value = line.removeprefix("# ").partition("=")
        if is_variable and name.isupper():
            listed.append(name)
            assert above.startswith("# "), f"{name} has no comment"
            assert line.startswith("# ") or not value, f"{name} has a value"

    # Where it stands says how it is used: an address instead of the five before it.
    assert sorted(listed) == sorted(expected)
