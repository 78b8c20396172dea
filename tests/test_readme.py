"""Every command that the README and docs/ show, as it stands there.

Those for an account of Homele are run against the sandbox.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.generate import ROOT, own_settings
from tests.readme import CONTRIBUTING, DOCS, OPERATING, README, block
from tests.sandbox.server import TOKEN
from tests.test_demo import port
from tests.test_meltano import execute, project, state_of, use, warehouse
from tests.test_postgres import in_utc, table

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import Serve

__all__ = ["port", "project", "warehouse"]

# Where a block of commands stands, and what runs it.
TRIED = {
    "## Try it": "tests/test_meltano.py, test_the_demo_twice",
    "### With Meltano": "test_with_meltano",
    "### In a Meltano project of your own": "test_in_a_project_of_ones_own",
    "### With any other Singer target": "test_with_any_other_target",
    "## Develop": "test_develop",
}
# The same, in docs/operating.md.
TRIED_OPERATING = {
    "**A schedule**": "test_a_schedule",
    "**Several companies**": "test_several_companies",
    "### Several companies at once": "tests/test_meltano.py, "
    "test_companies_at_the_same_time",
    "**To hash columns**": "tests/test_meltano.py, test_security",
}


def sh(
    commands: str, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    result = execute(["bash", "-ec", commands], folder, **variables)
    assert result.returncode == 0, result.stdout
    return result


def test_every_block_of_commands_is_tried() -> None:
    blocks = [block(heading, "sh") for heading in TRIED]
    blocks += [block(heading, "sh", OPERATING) for heading in TRIED_OPERATING]
    texts = "".join(path.read_text() for path in (README, *DOCS))

    assert re.findall(r"```sh\n(.*?)```", texts, re.DOTALL) == blocks


def test_the_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 1310


def anchors(path: Path) -> set[str]:
    """Give the anchors that GitHub makes of the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", [README, CONTRIBUTING, *DOCS], ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        if name.startswith("https://"):
            continue
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_error_that_is_explained_exists() -> None:
    """Each sentence of the table is one that the tap can say."""
    said = []
    for path in (ROOT / "tap_homele").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                said.append(
                    "".join(
                        part.value if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    errors = (ROOT / "docs" / "errors.md").read_text()
    ours, _, _ = errors.partition("From Meltano, pip or the target")
    rows = [row for row in ours.splitlines() if row.startswith("| `")]

    assert len(rows) > 20
    for row in rows:
        for sentence in re.findall(r"`([^`]+)`", row.split("|")[1]):
            setting, colon, rest = sentence.partition(": ")
            sought = rest if colon and setting in own_settings() else sentence
            assert any(sought in text for text in said), sentence


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_with_meltano(project: Path, serve: Serve, warehouse: str) -> None:
    sandbox = serve(150)
    # "and fill in the token and the database": a variable wins over the file.
    result = sh(
        block("### With Meltano", "sh"),
        project,
        TAP_HOMELE_AUTH_TOKEN=TOKEN,
        TAP_HOMELE_API_URL=sandbox.api_url,
        TARGET_POSTGRES_SQLALCHEMY_URL=warehouse,
    )

    assert table(warehouse, "tap_homele") == in_utc(sandbox)
    # The line at the end is the one that the README shows.
    shown = block("### With Meltano", "text").strip()
    pattern = re.sub(r"\d[\d,]*", r"[\\d,]+", re.escape(shown))
    assert re.search(pattern, result.stdout), result.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_in_a_project_of_ones_own(serve: Serve, tmp_path: Path, project: Path) -> None:
    sandbox = serve(20)
    shutil.copytree(project, tmp_path / "tap-homele")
    dist = tmp_path / "dist"
    sh(
        f"uv build -q -o {dist} tap-homele && uvx meltano init --no-usage-stats own",
        tmp_path,
    )
    commands = block("### In a Meltano project of your own", "sh")
    assert "1|your-token" in commands
    add, change, rest = re.split("# (.*)\n", commands.replace("1|your-token", TOKEN))
    own = tmp_path / "own"

    sh(add, own)
    old, new = re.findall('"(.*?)"', change)
    written = (own / "meltano.yml").read_text()
    assert f"{old}\n" in written
    (own / "meltano.yml").write_text(written.replace(f"{old}\n", f"{new}\n"))
    result = sh(rest, own, TAP_HOMELE_API_URL=sandbox.api_url)
    assert "Plugin configuration is valid" in result.stdout

    # "Where the package is in your package index"
    sh("uvx meltano init --no-usage-stats other", tmp_path)
    settings, test = rest.splitlines()[1:]
    result = sh(
        f"{add.replace('--no-install ', '')}\n{settings}\n{test}",
        tmp_path / "other",
        UV_FIND_LINKS=str(dist),
        TAP_HOMELE_API_URL=sandbox.api_url,
    )
    assert "Plugin configuration is valid" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_with_any_other_target(serve: Serve, project: Path) -> None:
    sandbox = serve(150)
    commands = block("### With any other Singer target", "sh")
    config = json.dumps({"auth_token": TOKEN, "api_url": sandbox.api_url})
    filled = commands.replace('{"auth_token": "1|your-token"}', config)
    assert filled != commands

    sh(filled, project)
    sandbox.edit(max(sandbox.customers), name="دانا")
    again = [line for line in filled.splitlines() if not line.startswith("echo")]
    sh("\n".join(again), project)

    # "makes a new file each time"
    files = sorted(project.glob("customers-*.jsonl"), key=os.path.getmtime)
    first, second = (path.read_text().splitlines() for path in files)
    assert len(first) == 150
    assert next(json.loads(line)["name"] for line in second) == "دانا"
    assert len(second) <= 2
    state = json.loads((project / "state.json").read_text())
    assert state["bookmarks"]["customers"]["replication_key_value"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_schedule(project: Path, serve: Serve, warehouse: str) -> None:
    sandbox = serve(150)
    use(project, sandbox, warehouse)

    listed = sh(block("**A schedule**", "sh", OPERATING).splitlines()[0], project)
    assert "hourly" in listed.stdout
    # It is the default environment's state, the one of `meltano run`.
    sh(block("**A schedule**", "sh", OPERATING).splitlines()[1], project)

    assert table(warehouse, "tap_homele") == in_utc(sandbox)
    assert state_of(project)["replication_key_value"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_companies(project: Path, serve: Serve, warehouse: str) -> None:
    sandbox = serve(150)
    use(project, sandbox, warehouse)
    env = project / ".env"
    env.write_text(env.read_text().replace("TAP_HOMELE_AUTH_TOKEN=", "ACME_TOKEN=", 1))
    meltano_yml = project / "meltano.yml"
    meltano_yml.write_text(
        meltano_yml.read_text().replace(
            "- name: dev\n",
            "- name: dev\n" + block("**Several companies**", "yaml", OPERATING),
            1,
        )
    )

    sh(block("**Several companies**", "sh", OPERATING), project)

    assert table(warehouse, "acme") == in_utc(sandbox)
    assert state_of(project, "acme")["replication_key_value"]
    with psycopg.connect(warehouse) as connection:
        connection.execute("DROP SCHEMA acme CASCADE")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_flattening(project: Path, serve: Serve, warehouse: str) -> None:
    sandbox = serve(150)
    odd = min(sandbox.customers)
    sandbox.change(odd, occupation="طبيب")
    use(project, sandbox, warehouse)
    sh(block("### With Meltano", "sh").splitlines()[1], project)
    with (project / ".env").open("a") as env:
        env.write(block("**Flattening**", "text", OPERATING))
    # "Where there is a table already, drop it, and run once with --full-refresh"
    with psycopg.connect(warehouse) as connection:
        connection.execute("DROP TABLE tap_homele.customers")

    sh("uvx meltano run --full-refresh tap-homele target-postgres", project)

    rows = table(warehouse, "tap_homele")
    assert len(rows) == 150
    for customer_id, row in rows.items():
        owner = sandbox.customers[customer_id]["owner"] or {"id": None, "name": None}
        assert (row["owner__id"], row["owner__name"]) == (owner["id"], owner["name"])
    assert json.loads(rows[odd]["additional_properties"]) == {"occupation": "طبيب"}
    with psycopg.connect(warehouse) as connection:
        kinds = dict(
            connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = 'tap_homele'"
            ).fetchall()
        )
    said = " ".join(OPERATING.read_text().split())
    for name in ("owner__id", "owner__name"):
        assert f"`{name}` (`{kinds[name]}`)" in said
    assert f"`additional_properties` becomes `{kinds['additional_properties']}`" in said


def test_develop() -> None:
    """The command is the one that runs this; ``.ci/run`` has it too."""
    assert block("## Develop", "sh") == "uv run pytest\n"
    assert "\nuv run pytest\n" in (ROOT / ".ci" / "run").read_text()
