"""Whole runs of the real Meltano, in a copy of the project."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from tests.readme import OPERATING, block
from tests.sandbox.customers import details_of, make_customers
from tests.singer import clean_environment
from tests.test_demo import SANDBOX, alive, environment, leave, port, wait_until_gone
from tests.test_postgres import in_utc, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Serve
    from tests.sandbox import Sandbox

__all__ = ["port"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
DEMO = ["uvx", "meltano", "run", "demo"]
PIPELINE = ["tap-homele", "target-postgres"]


@pytest.fixture
def project(port: int) -> Iterator[Path]:
    """Copy what git has of the project to a short path, with a port of its own."""
    folder = Path(tempfile.mkdtemp(prefix="meltano"))
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".env").write_text(sandbox_at(port))
    yield folder
    leave(folder)
    shutil.rmtree(folder, ignore_errors=True)


def sandbox_at(port: int) -> str:
    """Give the line for ``.env`` that moves the demo's sandbox to a port."""
    return f"TAP_HOMELE_SANDBOX_API_URL=http://127.0.0.1:{port}\n"


@pytest.fixture
def warehouse(postgres_url: str) -> str:
    """Give the address of a PostgreSQL that has no table of the tap yet."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS tap_homele CASCADE")
    return postgres_url


def execute(
    command: list[str], folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does; both of its outputs are in ``stdout``."""
    return subprocess.run(
        command,
        cwd=folder,
        env=clean_environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def meltano(
    project: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return execute(["uvx", "meltano", *arguments], project, **variables)


def test_the_demo_twice(project: Path) -> None:
    command, shown = block("## Try it", "sh"), block("## Try it", "text")
    for _ in range(2):
        result = execute(["bash", "-c", command], project)

        assert result.returncode == 0, result.stdout
        # With the lines that the README shows, in that order.
        said = iter(result.stdout.splitlines())
        for line in shown.splitlines():
            assert any(line in other for other in said), line
        wait_until_gone(project)


def test_the_playground(project: Path) -> None:
    """Also from another folder; with the query and the rows that the README shows."""
    result = meltano(project / "docs", "run", "playground")
    assert result.returncode == 0, result.stdout
    assert "uvx meltano invoke sandbox:stop" in result.stdout
    query, shown = block("# tap-homele", "sql"), block("# tap-homele", "text")

    found = meltano(project, "invoke", "sandbox:sql", query)
    again = meltano(project, "run", "demo")
    stopped = meltano(project, "invoke", "sandbox:stop")

    assert found.stdout.endswith(shown), found.stdout
    assert again.returncode != 0
    assert "A demo or playground is running here already" in again.stdout
    assert "Everything is stopped." in stopped.stdout
    wait_until_gone(project)


@pytest.mark.parametrize("place", [".env", "meltano.yml"])
def test_a_column_is_taken_out(
    project: Path, serve: Serve, warehouse: str, place: str
) -> None:
    """With the example of .secrets.example, wherever it is written."""
    use(project, serve(20), warehouse)
    env = (project / ".env").read_text()
    (line,) = [x for x in env.splitlines() if x.startswith("# TAP_HOMELE_STREAM_MAPS")]
    if place == ".env":
        (project / ".env").write_text(env.replace(line, line.removeprefix("# ")))
    else:
        stream_maps = json.loads(line.partition("=")[2])
        meltano_yml = project / "meltano.yml"
        definition = yaml.safe_load(meltano_yml.read_text())
        extractor = definition["plugins"]["extractors"][0]
        extractor["config"] = {"stream_maps": stream_maps}
        meltano_yml.write_text(yaml.safe_dump(definition, sort_keys=False))

    result = meltano(project, "run", *PIPELINE)

    assert result.returncode == 0, result.stdout
    rows = table(warehouse, "tap_homele").values()
    assert len(rows) == 20
    assert all("phone1" not in row and "phone2" in row for row in rows)


def test_a_list_from_a_variable(project: Path, serve: Serve, warehouse: str) -> None:
    sandbox = serve(50)
    use(project, sandbox, warehouse)
    with (project / ".env").open("a") as env:
        env.write("OWNERS=[1, 2]\n")
    meltano_yml = project / "meltano.yml"
    definition = yaml.safe_load(meltano_yml.read_text())
    extractor = definition["plugins"]["extractors"][0]
    extractor["config"] = {"filter_owner_ids": "$OWNERS"}
    meltano_yml.write_text(yaml.safe_dump(definition, sort_keys=False))

    result = meltano(project, "run", *PIPELINE)

    assert result.returncode == 0, result.stdout
    owners = {(row["owner"] or {}).get("id") for row in sandbox.customers.values()}
    came = {row["owner"]["id"] for row in table(warehouse, "tap_homele").values()}
    assert came == owners & {1, 2}


def test_the_demo_keeps_away_from_a_real_account(project: Path) -> None:
    """What a user has set for the real tap and target does not reach the demo."""
    meltano_yml = project / "meltano.yml"
    meltano_yml.write_text(
        meltano_yml.read_text().replace(
            "    executable: tap-homele\n",
            "    executable: tap-homele\n"
            "    metadata:\n"
            "      customers:\n"
            "        replication-method: FULL_TABLE\n"
            "    select: ['!customers.phone*']\n"
            "    config:\n"
            "      stream_maps:\n"
            "        customers:\n"
            "          email1: sha256(config['hash_seed'] + email1)\n",
            1,
        )
    )
    (project / ".env").write_text(
        (project / ".env").read_text() + "TAP_HOMELE_AUTH_TOKEN=1|real\n"
        "TAP_HOMELE_API_URL=https://crm.acme.example\n"
        "TARGET_POSTGRES_SQLALCHEMY_URL=postgresql://real.example/warehouse\n"
    )

    result = meltano(project, "run", "demo")

    assert result.returncode == 0, result.stdout
    assert "Customers in PostgreSQL: 2345" in result.stdout


@pytest.mark.parametrize("moment", ["Beginning sync", "Edited 10 customers"])
def test_ctrl_c_leaves_nothing_behind(project: Path, moment: str) -> None:
    run = subprocess.Popen(
        DEMO,
        cwd=project,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert run.stdout
    for line in run.stdout:
        if moment in line:
            # As a terminal does: to all of the foreground.
            os.killpg(run.pid, signal.SIGINT)
            break
    run.stdout.read()
    run.stdout.close()

    assert run.wait() != 0
    wait_until_gone(project)


def test_a_failure_in_the_middle_leaves_nothing_behind(project: Path) -> None:
    revoked = {"TAP_HOMELE_SANDBOX_AUTH_TOKEN": "2|revoked"}

    result = meltano(project, "run", "demo", **revoked)

    assert result.returncode != 0
    assert "Make a new one in Homele" in result.stdout
    wait_until_gone(project)


def use(project: Path, sandbox: Sandbox, warehouse: str) -> None:
    """Fill in ``.env`` as a user does, for this sandbox and this PostgreSQL."""
    filled = {
        "TAP_HOMELE_AUTH_TOKEN=": "TAP_HOMELE_AUTH_TOKEN=1|sandbox",
        "# TAP_HOMELE_API_URL=https://crm.acme.example": (
            f"TAP_HOMELE_API_URL=http://127.0.0.1:{sandbox.port}"
        ),
        "# TARGET_POSTGRES_SQLALCHEMY_URL=": (
            f"TARGET_POSTGRES_SQLALCHEMY_URL={warehouse}"
        ),
    }
    lines = (project / ".secrets.example").read_text().splitlines()
    for begins, instead in filled.items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(begins)]
        lines[at] = instead
    env = "\n".join(lines) + "\n"
    (project / ".env").write_text(env)


def test_companies_at_the_same_time(
    project: Path, serve: Serve, warehouse: str
) -> None:
    """Each in a system folder of its own, as operating.md says; two loaders, too."""
    use(project, serve(120), warehouse)
    companies = block("## Several companies", "yaml", OPERATING)
    lines = (project / ".env").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("TAP_HOMELE_AUTH_TOKEN")]
    tokens = ["ACME_TOKEN=1|sandbox", "BETA_TOKEN=1|sandbox"]
    (project / ".env").write_text("\n".join([*kept, *tokens]))
    meltano_yml = project / "meltano.yml"
    both = companies + companies.replace("acme", "beta").replace("ACME", "BETA")
    meltano_yml.write_text(
        meltano_yml.read_text().replace("- name: dev\n", f"- name: dev\n{both}", 1)
    )
    (command,) = block("### Several companies at once", "sh", OPERATING).splitlines()
    commands = [command, command.replace("acme", "beta")]
    into_files = command.replace(".meltano-acme", ".meltano-files")
    commands += [into_files.replace("target-postgres", "target-jsonl")]

    for number in range(3):
        running = [
            subprocess.Popen(
                ["bash", "-c", one],  # noqa: S607
                cwd=project,
                env=clean_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for one in commands
        ]
        for process in running:
            said, _ = process.communicate()
            assert process.returncode == 0, said
            assert f"120 read, {0 if number else 120} changed" in said
    for name in ("acme", "beta"):
        assert len(table(warehouse, name)) == 120
        with psycopg.connect(warehouse) as connection:
            connection.execute(f"DROP SCHEMA {name} CASCADE")


def test_without_the_columns_of_singer(
    project: Path, serve: Serve, warehouse: str
) -> None:
    """By the two lines of .secrets.example, which need each other."""
    use(project, serve(20), warehouse)
    env = (project / ".env").read_text()
    for name in ("ACTIVATE_VERSION", "ADD_RECORD_METADATA"):
        env = env.replace(f"# TARGET_POSTGRES_{name}=", f"TARGET_POSTGRES_{name}=")
    (project / ".env").write_text(env)

    result = meltano(project, "run", *PIPELINE)

    assert result.returncode == 0, result.stdout
    rows = table(warehouse, "tap_homele").values()
    assert len(rows) == 20
    assert not [name for row in rows for name in row if name.startswith("_sdc_")]


@pytest.mark.parametrize(
    "metadata", [{"replication-method": "LOG_BASED"}, {"replication-key": "created_at"}]
)
def test_a_replication_that_no_stream_can_do(
    project: Path, serve: Serve, warehouse: str, metadata: dict[str, str]
) -> None:
    use(project, serve(20), warehouse)
    meltano_yml = project / "meltano.yml"
    definition = yaml.safe_load(meltano_yml.read_text())
    extractor = definition["plugins"]["extractors"][0]
    extractor["metadata"] = {"customers": metadata}
    meltano_yml.write_text(yaml.safe_dump(definition, sort_keys=False))

    result = meltano(project, "run", *PIPELINE)

    assert result.returncode != 0
    assert "customers: in the metadata, replication-method can only be" in result.stdout


def test_the_secret_of_hashes_is_not_shown(project: Path) -> None:
    with (project / ".env").open("a") as env:
        env.write('TAP_HOMELE_STREAM_MAP_CONFIG={"hash_seed": "hush"}\n')

    shown = meltano(project, "config", "print", "tap-homele").stdout
    listed = meltano(project, "config", "list", "tap-homele").stdout

    assert '"stream_map_config": "*****"' in shown
    assert "TAP_HOMELE_STREAM_MAP_CONFIG" in listed
    assert "hush" not in shown + listed


def test_a_real_account_needs_a_token_and_a_database(
    project: Path, serve: Serve, warehouse: str
) -> None:
    sandbox = serve(450)
    use(project, sandbox, warehouse)

    result = meltano(project, "run", *PIPELINE)
    assert result.returncode == 0, result.stdout
    assert table(warehouse, "tap_homele") == in_utc(sandbox)

    result = meltano(project, "run", "tap-homele", "target-jsonl")
    assert result.returncode == 0, result.stdout
    lines = (project / "customers.jsonl").read_text().splitlines()
    assert len(lines) == 450


@pytest.mark.parametrize("how", ["keep columns out", "hash columns"])
def test_security(project: Path, serve: Serve, warehouse: str, how: str) -> None:
    """What docs/operating.md says, with its words."""
    sandbox = serve(150)
    odd = min(sandbox.customers)
    sandbox.change(odd, phone1={"number": "0750"})  # goes to additional_properties
    use(project, sandbox, warehouse)
    text = OPERATING.read_text().partition(f"**To {how}**")[2]
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")]
    (plugin,) = yaml.safe_load(blocks[1])
    meltano_yml = project / "meltano.yml"
    definition = yaml.safe_load(meltano_yml.read_text())
    assert definition["plugins"]["extractors"][0]["name"] == plugin["name"]
    definition["plugins"]["extractors"][0] |= plugin
    meltano_yml.write_text(yaml.safe_dump(definition, sort_keys=False))
    commands = text.partition("```sh\n")[2].partition("```")[0]
    subprocess.run(["bash", "-ec", commands], cwd=project, check=True)  # noqa: S607

    result = meltano(project, "run", *PIPELINE)

    assert result.returncode == 0, result.stdout
    rows = table(warehouse, "tap_homele")
    assert len(rows) == 150
    for row in rows.values():
        customer = sandbox.customers[row["id"]]
        assert row["name"] == customer["name"]
        if how == "keep columns out":
            hidden = {"phone1", "phone2", "phone3", "address", "additional_properties"}
            assert customer.keys() - row.keys() == hidden - {"additional_properties"}
            assert "additional_properties" not in row
        else:
            for column in ("email1", "phone1", "phone2", "phone3"):
                plain = customer[column]
                seeded = f"a long secret of your own{plain}".encode()
                is_text = isinstance(plain, str)
                hashed = hashlib.sha256(seeded).hexdigest() if is_text else None
                assert row[column] == hashed
            assert "additional_properties" not in row


def kill_the_tap(project: Path) -> None:
    for process in alive(project):
        if any(part.endswith("bin/tap-homele") for part in process.cmdline()):
            process.kill()


def test_interrupted_and_refreshed(project: Path, serve: Serve, warehouse: str) -> None:
    sandbox = serve(1000)
    use(project, sandbox, warehouse)

    def run_and_kill_at(number: int, *options: str) -> None:
        sandbox.requests.clear()
        sandbox.meanwhile = lambda: (
            kill_the_tap(project) if len(sandbox.requests) == number else None
        )
        killed = meltano(project, "run", *options, *PIPELINE)
        assert killed.returncode != 0
        assert len(sandbox.requests) == number
        sandbox.meanwhile = None

    # The tap is killed while it waits for the sixth page; then only the rest is read.
    run_and_kill_at(6)
    asked = list(sandbox.urls)
    result = meltano(project, "run", *PIPELINE)
    assert result.returncode == 0, result.stdout
    assert "Resuming the interrupted scan of" in result.stdout
    assert sandbox.urls[6] == asked[5]
    assert len(pages(sandbox)) == 6 + 5 + 2
    assert table(warehouse, "tap_homele") == in_utc(sandbox)

    # Meltano keeps the bookmark of before beside the checkpoint of a full refresh that
    # was interrupted: the next run has to finish it.
    run_and_kill_at(4, "--full-refresh")
    state = state_of(project)
    assert state["replication_key_value"] > ""
    assert state["saved"]["open_scan"]["bookmark"] == ""
    assert state["saved"]["open_scan"]["position"]["cursor"]
    asked = list(sandbox.urls)
    result = meltano(project, "run", *PIPELINE)
    assert result.returncode == 0, result.stdout
    assert sandbox.urls[4] == asked[3]
    assert len(pages(sandbox)) == 4 + 7 + 2
    assert table(warehouse, "tap_homele") == in_utc(sandbox)

    # And it merges the state of one that ends well into that of the run before, which
    # was interrupted.
    latest = sorted(sandbox.customers.values(), key=lambda row: row["updated_at"])[-7:]
    for row in latest:
        sandbox.edit(row["id"], address="Gulan Street 7")
    run_and_kill_at(4)
    assert state_of(project)["saved"]["open_scan"]["list_id"]
    refreshed = meltano(project, "run", "--full-refresh", *PIPELINE)
    assert refreshed.returncode == 0, refreshed.stdout
    assert not state_of(project)["saved"]["open_scan"]["list_id"]
    sandbox.requests.clear()
    for row in latest:
        sandbox.edit(row["id"], address="Gulan Street 9")

    result = meltano(project, "run", *PIPELINE)

    assert result.returncode == 0, result.stdout
    assert sandbox.urls[0] == "/customers?per_page=100"
    # The list, its end and its top again.
    assert len(pages(sandbox)) == 10 + 1 + 1
    state = state_of(project)
    assert set(state) == {"replication_key", "replication_key_value", "saved"}
    assert not state["saved"]["open_scan"]["list_id"]
    assert state["saved"]["last_full_scan"]["max_id"] == max(sandbox.customers)
    assert table(warehouse, "tap_homele") == in_utc(sandbox)


def test_quick_runs_and_a_full_scan_at_night(
    project: Path, serve: Serve, warehouse: str
) -> None:
    sandbox = serve(20_000)
    use(project, sandbox, warehouse)
    night = block("**Quick runs**", "text", OPERATING).partition(" && ")[2]
    name, value = night.split()[0].split("=")
    always = {"TAP_HOMELE_FULL_SCAN_EVERY_HOURS": "24"}
    first = meltano(project, "run", *PIPELINE, **always)
    assert first.returncode == 0, first.stdout
    active, (edited, *_) = [*sandbox.customers][:10], [*sandbox.customers][500:]
    for customer_id in active:
        sandbox.change(customer_id, name="Active", last_activity_at=sandbox.now())
    for row in make_customers(3, seed=1):
        times = {"created_at": sandbox.now(), "updated_at": sandbox.now()}
        new = {"id": row["id"] + 10**6, "last_activity_at": None}
        sandbox.add(row | times | new)
    sandbox.edit(edited, name="Edited")
    sandbox.requests.clear()

    quick = meltano(project, "run", *PIPELINE, **always)

    assert quick.returncode == 0, quick.stdout
    assert "Quick run: " in quick.stdout
    assert ", 13 changed and sent, in 2 requests" in quick.stdout
    assert len(sandbox.requests) == 2
    rows = table(warehouse, "tap_homele")
    names = {row["name"] for row in rows.values()}
    assert "Active" in names
    assert "Edited" not in names
    assert len(rows) == 20_003

    # The line of the schedule at night.
    full = meltano(project, "run", *PIPELINE, **always | {name: value})

    assert full.returncode == 0, full.stdout
    assert "Quick run: " not in full.stdout
    assert table(warehouse, "tap_homele") == in_utc(sandbox)


def test_details_are_repeated_for_one_page_at_most(
    project: Path, serve: Serve, warehouse: str
) -> None:
    """The tap is killed while it waits for the details of the 125th customer."""
    sandbox = serve(150)
    use(project, sandbox, warehouse)
    with (project / ".env").open("a") as env:
        env.write("TAP_HOMELE_CUSTOMER_DETAILS=true\n")

    def details() -> list[str]:
        return [url for url in sandbox.urls if url.startswith("/customers/")]

    sandbox.meanwhile_detail = lambda: (
        kill_the_tap(project) if len(details()) == 125 else None
    )
    killed = meltano(project, "run", *PIPELINE)
    assert killed.returncode != 0
    asked = details()
    assert len(asked) == 125
    sandbox.requests.clear()
    sandbox.meanwhile_detail = None

    result = meltano(project, "run", *PIPELINE)

    assert result.returncode == 0, result.stdout
    # The state says that the first page is complete.
    assert set(details()).isdisjoint(asked[:100])
    assert len(details()) == 50
    with psycopg.connect(warehouse) as connection:
        rows = connection.execute(
            "SELECT id, name, occupation FROM tap_homele.customer_details"
        ).fetchall()
    assert {row[0]: (row[1], row[2]) for row in rows} == {
        row["id"]: (row["name"], details_of(row)["occupation"])
        for row in sandbox.customers.values()
    }


def pages(sandbox: Sandbox) -> list[str]:
    """Give the requests for pages of the list, without those of the cross-check."""
    return [url for url in sandbox.urls if "date_" not in url]


def state_of(project: Path, environment: str = "dev") -> dict[str, Any]:
    """Give what Meltano keeps for the stream."""
    result = subprocess.run(
        [
            *("uvx", "meltano", "--log-level=error", "state", "get"),
            f"{environment}:tap-homele-to-target-postgres",
        ],
        cwd=project,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    state: dict[str, Any] = json.loads(result.stdout)
    found: dict[str, Any] = state["singer_state"]["bookmarks"]["customers"]
    return found


def test_the_sandbox_by_hand(project: Path, port: int) -> None:
    served: Any = subprocess.Popen(
        [*SANDBOX, "serve"],
        cwd=project,
        env=environment(project, port),
        stdout=subprocess.PIPE,
        text=True,
    )
    first, second = served.stdout.readline(), served.stdout.readline()
    served.send_signal(signal.SIGINT)
    served.communicate()

    address = f"http://127.0.0.1:{port}/api/v2/crm"
    assert first == f"A Homele API with 2345 customers: {address}\n"
    assert second.startswith("Its token: 1|sandbox ")
    assert served.returncode == 128 + signal.SIGINT
    assert alive(project) == []
