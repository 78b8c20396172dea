"""Writes what the documents repeat of the code: ``uv run python -m tests.generate``.

``tap.py`` is the list of settings and ``streams.py`` that of columns. What is made of
them is ``tap-homele.yml``, the reviewed catalog, and the parts of other files that
stand between two lines with the word ``generated``.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import yaml

from tap_homele.details import DETAIL_COLUMNS
from tap_homele.streams import ADDITIONAL, COLUMNS
from tap_homele.tap import TapHomele

ROOT = Path(__file__).parent.parent

MADE_BY = "It is made by: uv run python -m tests.generate"

Setting = dict[str, Any]

# What stands in .secrets.example.
EXAMPLES: dict[str, Any] = {
    "api_url": "https://crm.acme.example",
    "start_date": "2026-01-01",
    "page_size": 50,
    "filter_query": "Sara",
    "filter_lead_status_ids": [1, 2],
    "filter_owner_ids": [1, 2],
    "filter_lead_source_ids": [1, 2],
    "filter_priority_id": 1,
    "filter_created_from": "2026-01-01",
    "filter_created_to": "2026-12-31",
    "scan_by": "created_date",
    "full_scan_every_hours": 24,
    "customer_details": True,
    "emit_activate_version_messages": True,
}

# What PostgreSQL makes of a kind of column (target-postgres).
IN_POSTGRES = {
    "integer": "bigint",
    "text": "text",
    "decimal, as text": "text",
    "date": "date",
    "time": "timestamp",
    "object": "jsonb",
}


def sdk_settings() -> dict[str, Setting]:
    """Give the settings that the SDK adds to every tap."""
    schema: dict[str, dict[str, Setting]] = {"properties": {}}
    TapHomele.append_builtin_config(schema)
    return schema["properties"]


def own_settings() -> dict[str, Setting]:
    """Give the settings that are the tap's own."""
    # The SDK adds its settings to the tap's.
    properties = TapHomele.config_jsonschema["properties"]
    return {k: v for k, v in properties.items() if k not in sdk_settings()}


def kind_of(schema: Setting) -> str:
    """Give what Meltano calls the kind of a setting."""
    if "enum" in schema:
        return "options"
    (kind, *_) = schema["type"]
    # Meltano takes "3 days ago" for such a kind and makes a time of it: right for
    # start_date, but not for a date.
    if schema.get("format") == "date-time":
        return "date_iso8601"
    return str(kind)


def meltano_settings() -> list[Setting]:
    """Give the settings as Meltano and the Hub write them."""
    settings = []
    for name, schema in (own_settings() | sdk_settings()).items():
        label = schema.get("title") or name.replace("_", " ").capitalize()
        setting = {"name": name, "label": label, "kind": kind_of(schema)}
        # The SDK does not say so, but a secret for hashes stands in it.
        if schema.get("secret") or name == "stream_map_config":
            setting["sensitive"] = True
        if "default" in schema:
            setting["value"] = schema["default"]
        if "enum" in schema:
            setting["options"] = [
                {"label": value, "value": value} for value in schema["enum"]
            ]
        settings.append(setting | {"description": schema["description"]})
    return settings


def for_hub() -> str:
    """Make the plugin definition for Meltano Hub."""
    package = importlib.metadata.metadata("tap-homele")
    urls = package.get_all("Project-URL") or []
    repository = dict(url.split(", ") for url in urls)["Repository"]
    definition = {
        "name": "tap-homele",
        # The Hub's name for whose tap it is: the owner of the repository.
        "variant": repository.split("/")[-2].lower(),
        "namespace": "tap_homele",
        "label": "Homele CRM",
        "description": package["Summary"],
        "domain_url": "https://crm.homele.com",
        "repo": repository,
        "pip_url": "tap-homele",
        "executable": "tap-homele",
        "supported_python_versions": TapHomele.get_supported_python_versions(),
        "capabilities": sorted(item.value for item in TapHomele.capabilities),
        "keywords": ["api", "crm", "meltano_sdk", "real estate"],
        # The Hub's own rule for a tap that is built on the SDK and has no users yet.
        "quality": "silver",
        "maintenance_status": "beta",
        "select": ["*.*"],
        "settings_group_validation": [TapHomele.config_jsonschema["required"]],
        "settings": meltano_settings(),
    }
    return f"# The definition for Meltano Hub. {MADE_BY}\n{as_yaml(definition)}"


def as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6)


def as_text(value: Any) -> str:
    """Write a value of a setting as it stands in ``.env``: JSON, but for text."""
    return value if isinstance(value, str) else json.dumps(value)


def for_meltano() -> str:
    """Make the list of settings in ``meltano.yml``."""
    return textwrap.indent(as_yaml(meltano_settings()), " " * 4)


def for_environment() -> str:
    """Make the variables in ``.secrets.example``."""
    parts = []
    for name, schema in own_settings().items():
        lines = textwrap.wrap(schema["description"], 86)
        example = as_text(EXAMPLES.get(name, ""))
        # What is needed stands ready to be filled in.
        hidden = "" if name in TapHomele.config_jsonschema["required"] else "# "
        variable = f"{hidden}TAP_HOMELE_{name.upper()}={example}"
        parts.append("".join(f"# {line}\n" for line in lines) + variable + "\n")
    return "\n".join(parts)


def settings_table() -> str:
    """Make the README's table of settings."""
    rows = ["| setting | default | what it does |", "| --- | --- | --- |"]
    for name, schema in own_settings().items():
        default = ""
        if name in TapHomele.config_jsonschema["required"]:
            default = "required"
        elif "default" in schema:
            default = f"`{as_text(schema['default'])}`"
        says = schema["description"]
        if {"array", "date", "date-time"} & {schema["type"][0], schema.get("format")}:
            says += f" Like `{as_text(EXAMPLES[name])}`."
        rows.append(f"| `{name}` | {default} | {says} |")
    return "\n".join(rows).replace("|  |", "| |") + "\n"


def columns_table() -> str:
    """Make the README's table of columns."""
    rows = [
        "| column | in PostgreSQL | what it is |",
        "| --- | --- | --- |",
    ]
    details = [column.name for column in DETAIL_COLUMNS]
    for column in (*COLUMNS, *DETAIL_COLUMNS, ADDITIONAL):
        ((name, schema),) = column.to_dict().items()
        kind = kind_of_column(schema)
        note = " Only in `customer_details`." if name in details else ""
        rows.append(
            f"| `{name}` | `{IN_POSTGRES[kind]}` | {schema['description']}{note} |"
        )
    return "\n".join(rows) + "\n"


def kind_of_column(schema: dict[str, Any]) -> str:
    """Give what a reader calls the kind of a column."""
    kind = schema["type"][0]
    forms = {"date": "date", "date-time": "time", "singer.decimal": "decimal, as text"}
    return forms.get(schema.get("format", ""), {"string": "text"}.get(kind, kind))


def catalog() -> str:
    """Make the catalog that is reviewed, with all streams."""
    tap = TapHomele(config={"auth_token": "1|none", "customer_details": True})
    return f"{tap.catalog_json_text}\n"


PARTS = {
    ("README.md", "settings"): settings_table,
    ("README.md", "columns"): columns_table,
    ("meltano.yml", "settings"): for_meltano,
    (".secrets.example", "settings"): for_environment,
}
FILES = {
    "tap-homele.yml": for_hub,
    "tests/snapshots/discover.json": catalog,
}


def replaced(text: str, part: str, made: str) -> str:
    """Put what was made between the two lines that name the part."""
    marker = rf"^.*\bgenerated {part}\b.*\n"
    end = rf"^.*\bend of {part}\b.*\n"
    begins, ends = (
        re.search(marker, text, re.MULTILINE),
        re.search(end, text, re.MULTILINE),
    )
    if not begins or not ends:
        raise ValueError(f"The two lines around '{part}' are not there.")
    return text[: begins.end()] + made + text[ends.start() :]


def documents() -> dict[Path, str]:
    """Give what each document should be."""
    made = {ROOT / name: make() for name, make in FILES.items()}
    for (name, part), make in PARTS.items():
        path = ROOT / name
        text = made.get(path) or path.read_text()
        # Markdown needs a blank line after a comment, and it looks well elsewhere.
        space = "" if path.suffix == ".yml" else "\n"
        made[path] = replaced(text, part, space + make() + space)
    return made


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
