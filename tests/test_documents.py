"""What the documents repeat of the code is what the code says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml
from jsonschema import Draft7Validator
from referencing import Registry, Resource

from tests.generate import (
    COLUMNS,
    FILES,
    IN_POSTGRES,
    PARTS,
    ROOT,
    documents,
    kind_of_column,
    replaced,
)
from tests.singer import clean_environment, run
from tests.test_postgres import load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

HUB = yaml.safe_load((ROOT / "tap-homele.yml").read_text())
MELTANO = yaml.safe_load((ROOT / "meltano.yml").read_text())
TAP = MELTANO["plugins"]["extractors"][0]


def about() -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-m", "tap_homele", "--about", "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    said: dict[str, Any] = json.loads(result.stdout)
    return said


@pytest.mark.parametrize("name", sorted({*FILES, *(name for name, _ in PARTS)}))
def test_a_document_is_as_it_is_generated(name: str) -> None:
    """After a change of the code: ``uv run python -m tests.generate``."""
    assert (ROOT / name).read_text() == documents()[ROOT / name]


def test_what_is_generated_replaces_what_is_between_the_lines() -> None:
    text = "a\n# generated x: so\nold\n# end of x\nb\n"

    assert replaced(text, "x", "new\n") == (
        "a\n# generated x: so\nnew\n# end of x\nb\n"
    )
    with pytest.raises(ValueError, match="around 'y'"):
        replaced(text, "y", "new")


def test_about_says_what_the_hub_is_told() -> None:
    said = about()
    settings = {setting["name"]: setting for setting in HUB["settings"]}

    assert said["name"] == HUB["name"] == TAP["name"]
    assert HUB["label"] == TAP["label"]
    assert sorted(said["capabilities"]) == HUB["capabilities"] == TAP["capabilities"]
    assert said["supported_python_versions"] == HUB["supported_python_versions"]
    for group in (HUB, TAP):
        assert group["settings_group_validation"] == [said["settings"]["required"]]
    assert list(settings) == list(said["settings"]["properties"])
    for name, schema in said["settings"]["properties"].items():
        assert settings[name]["description"] == schema["description"]
        assert settings[name].get("value") == schema.get("default")
        # The SDK does not say so, but a secret for hashes stands in it.
        is_secret = schema.get("secret", False) or name == "stream_map_config"
        assert settings[name].get("sensitive", False) == is_secret


SCHEMAS = ROOT.parent / "shared" / "hub-schemas"


@pytest.mark.skipif(not SCHEMAS.exists(), reason="the Hub's schemas are not here")
def test_the_hub_takes_the_definition() -> None:
    resources = {
        path.relative_to(SCHEMAS).as_posix(): json.loads(path.read_text())
        for path in SCHEMAS.rglob("*.json")
    }
    base = "https://hub.example/"
    extractors = "plugin_definitions/extractors.schema.json"
    registry: Registry[Any] = Registry().with_resources(
        (base + name, Resource.from_contents(resource | {"$id": base + name}))
        for name, resource in resources.items()
    )
    schema = {"$ref": base + extractors}

    validator = Draft7Validator(schema, registry=registry)

    assert list(validator.iter_errors(HUB)) == []
    # It is a schema that refuses something.
    assert list(validator.iter_errors(HUB | {"quality": "best"}))
    assert list(validator.iter_errors(HUB | {"settings": [{"nane": "x"}]}))


def leaves(schema: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Give the settings as the Hub's generator does, those inside objects by dots."""
    found = {}
    for name, setting in schema["properties"].items():
        if "object" in setting.get("type", "") and setting.get("properties"):
            found |= leaves(setting, f"{prefix}{name}.")
        else:
            found[prefix + name] = setting
    return found


def test_what_the_hub_would_make_of_the_settings() -> None:
    """Its generator takes a text with such a word in its name for a password.

    And it cannot write an option that is null (meltano/hub-utils).
    """
    words = ("password", "id", "token", "key", "secret")

    passwords = []
    for name, setting in leaves(about()["settings"]).items():
        kinds = setting.get("type", "string")
        is_text = (kinds if isinstance(kinds, str) else kinds[0]) == "string"
        if is_text and any(word in name for word in words):
            passwords.append(name)
        assert None not in setting.get("enum", []), name

    assert passwords == ["auth_token"]


def test_the_columns_in_postgresql_are_those_of_the_readme(
    serve: Serve, tmp_path: Path, postgres_url: str
) -> None:
    result = run(tmp_path, serve(1), customer_details=True)
    assert result.returncode == 0, result.stderr
    load(result.stdout, postgres_url, tmp_path, "kinds")
    with psycopg.connect(postgres_url) as connection:
        kinds = dict(
            connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE "
                "table_schema = 'kinds' AND table_name = 'customer_details'"
            ).fetchall()
        )

    rows = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| [^`]",
        (ROOT / "README.md").read_text().partition("## Columns")[2],
        re.MULTILINE,
    )
    assert len(rows) == len(COLUMNS) + 2
    for name, kind in rows:
        assert kinds[name].removesuffix(" without time zone") == kind, name


def test_every_kind_of_column_is_named() -> None:
    kinds = {kind_of_column(next(iter(c.to_dict().values()))) for c in COLUMNS}
    assert kinds == IN_POSTGRES.keys()


def test_the_version_is_that_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)

    assert newest
    assert newest[1] == about()["version"]
