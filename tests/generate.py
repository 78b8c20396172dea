"""Write what follows from the tap: ``uv run python -m tests.generate``.

``tap.py`` and ``streams.py`` are the lists of settings and of columns. From them come
the definition for Meltano Hub, the tables of the README and the snapshot of the
catalog; ``test_generated`` fails where one of them is not what this gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tap_homele.tap import TapHomele

ROOT = Path(__file__).parent.parent
REPO = "https://github.com/tap-homele/tap-homele"


def given_by_the_sdk() -> dict[str, dict[str, Any]]:
    """Give the settings that the SDK gives every tap."""
    schema: dict[str, dict[str, Any]] = {"properties": {}}
    TapHomele.append_builtin_config(schema)
    return schema["properties"]


def own_settings() -> dict[str, dict[str, Any]]:
    """Give the settings of the tap alone: the SDK adds its own to them."""
    properties = TapHomele.config_jsonschema["properties"]
    return {k: v for k, v in properties.items() if k not in given_by_the_sdk()}
