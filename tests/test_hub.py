"""A Meltano project of a user's own, with the definition for Meltano Hub."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.generate import ROOT
from tests.singer import clean_environment
from tests.test_meltano import meltano

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HUB = yaml.safe_load((ROOT / "tap-homele.yml").read_text())


def test_from_an_empty_project_to_a_file(serve: Serve, tmp_path: Path) -> None:
    sandbox = serve(250)
    # What the package index will have: pip_url stays as it is.
    dist = tmp_path / "dist"
    subprocess.run(["uv", "build", "-o", dist], cwd=ROOT, check=True)  # noqa: S607
    subprocess.run(
        ["uvx", "meltano", "init", "--no-usage-stats", "project"],  # noqa: S607
        cwd=tmp_path,
        env=clean_environment(),
        check=True,
    )
    project = tmp_path / "project"
    variables = {
        "UV_FIND_LINKS": str(dist),
        "TAP_HOMELE_AUTH_TOKEN": "1|sandbox",
        "TAP_HOMELE_API_URL": sandbox.api_url,
    }

    def ask(*arguments: str) -> str:
        result = meltano(project, *arguments, **variables)
        assert result.returncode == 0, result.stdout
        return result.stdout

    said = ask("add", "--from-ref", str(ROOT / "tap-homele.yml"), "tap-homele")
    assert "Installed extractor 'tap-homele'" in said
    written = yaml.safe_load((project / "meltano.yml").read_text())
    (plugin,) = written["plugins"]["extractors"]
    assert plugin["pip_url"] == "tap-homele"

    said = ask("config", "list", "--all", "tap-homele")
    for setting in HUB["settings"]:
        assert (
            f"\n{setting['name']} [env: TAP_HOMELE_{setting['name'].upper()}]" in said
        )
    # Not even where all settings are listed is the token shown.
    assert "current value: (redacted)" in said
    assert "1|sandbox" not in said

    said = ask("select", "tap-homele", "--list", "--all")
    catalog = json.loads((ROOT / "tests/snapshots/discover.json").read_text())
    (customers,) = [s for s in catalog["streams"] if s["stream"] == "customers"]
    for name in customers["schema"]["properties"]:
        assert f"customers.{name}\n" in said
    assert "excluded   ]" not in said

    said = ask("invoke", "tap-homele", "--discover")
    shown = json.loads(said[said.index("{\n") : said.rindex("}") + 1])
    assert shown["streams"] == [customers]

    assert "Plugin configuration is valid" in ask("config", "test", "tap-homele")

    loader = tmp_path / "target-jsonl.yml"
    plugins = yaml.safe_load((ROOT / "meltano.yml").read_text())["plugins"]
    (jsonl,) = [p for p in plugins["loaders"] if p["name"] == "target-jsonl"]
    loader.write_text(yaml.safe_dump(jsonl | {"variant": "andyh1203"}))
    ask("add", "--from-ref", str(loader), "target-jsonl")
    ask("run", "tap-homele", "target-jsonl")
    lines = (project / "customers.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == set(sandbox.customers)
    assert len(lines) == 250
