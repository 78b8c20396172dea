"""The command line: what a user can get wrong is said in one sentence."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from tap_homele.tap import TapHomele
from tests.sandbox.customers import make_customers
from tests.singer import catalog_of, clean_environment, config_for, parse
from tests.world import warnings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Serve
    from tests.sandbox import Sandbox

NO_STATE = (
    'The state is not like {"bookmarks": {"customers": {…}}}: reading all customers.'
)
MARK = "\ufeff"  # what Windows writes before a text


@pytest.fixture
def sandbox(serve: Serve, caplog: pytest.LogCaptureFixture) -> Sandbox:
    caplog.set_level(logging.INFO)
    return serve(30)


class Command:
    """The tap on the command line, in this process."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox

    def file(self, name: str, text: Any) -> str:
        path = self.folder / name
        path.write_text(text if isinstance(text, str) else json.dumps(text), "utf-8")
        return str(path)

    def settings(self, **settings: Any) -> str:
        return self.file("config.json", config_for(self.sandbox, **settings))

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Give the exit code and the standard output."""
        runner = CliRunner(env=environment)
        ended = runner.invoke(TapHomele.get_singer_command(), arguments)
        # An exception that nothing has caught would be a traceback.
        assert ended.exception is None or isinstance(ended.exception, SystemExit)
        return ended.exit_code, ended.stdout


@pytest.fixture
def command(tmp_path: Path, sandbox: Sandbox) -> Command:
    return Command(tmp_path, sandbox)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


# Files.


BROKEN = ['{"auth_token": "x",}', "", "auth_token: x", "[1]", '"text"']


@pytest.mark.parametrize("text", [*BROKEN, "{}".encode("utf-16")])
@pytest.mark.parametrize("option", ["state", "catalog"])
def test_a_file_that_is_no_json_object(
    command: Command, caplog: pytest.LogCaptureFixture, text: Any, option: str
) -> None:
    path = command.folder / "broken"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    code, _ = command.run("--config", command.settings(), f"--{option}", str(path))

    (said,) = errors(caplog)
    assert code == 1
    assert said.startswith(f"The file of --{option}, {path}, cannot be read: ")


@pytest.mark.parametrize(
    "streams",
    [None, 5, [None], [{}], [{"tap_stream_id": "customers"}]],
)
def test_a_catalog_of_another_shape(
    command: Command, caplog: pytest.LogCaptureFixture, streams: Any
) -> None:
    file = command.file("catalog.json", {"streams": streams})

    code, _ = command.run("--config", command.settings(), "--catalog", file)

    (said,) = errors(caplog)
    assert code == 1
    assert said.startswith(f"The file of --catalog, {file}, cannot be read: ")
    assert "`$[...]" in said


@pytest.mark.parametrize("text", [*BROKEN, None, ..., "{}".encode("utf-16")])
@pytest.mark.parametrize("more", [[], ["--discover"], ["--test"]])
def test_settings_that_cannot_be_read(
    command: Command, caplog: pytest.LogCaptureFixture, text: Any, more: list[str]
) -> None:
    """A file that is no JSON, not there, a folder, in another encoding."""
    path = command.folder / "config.json"
    if text is ...:
        path.mkdir()
    elif isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(text)

    code, _ = command.run("--config", str(path), *more)

    (said,) = errors(caplog)
    assert code == 1
    assert said.startswith(f"The settings cannot be read from {path}: ")
    assert len(said) > len(f"The settings cannot be read from {path}: ") + 10


def test_settings_come_through_a_pipe(command: Command) -> None:
    """As from a program that decrypts them: ``--config <(decrypt config.json)``."""
    config = command.settings()
    tap = f"{sys.executable} -m tap_homele --config <(cat {config}) | wc -l"

    ended = subprocess.run(
        ["bash", "-c", tap],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )

    assert int(ended.stdout) > 30


def test_a_byte_order_mark_is_read_over(command: Command) -> None:
    bookmark = {"replication_key_value": "2026-02-20T18:00:00+00:00"}
    state = {"bookmarks": {"customers": bookmark}}
    catalog = catalog_of().to_dict()
    files = {
        "--config": json.dumps(config_for(command.sandbox)),
        "--state": json.dumps(state),
        "--catalog": json.dumps(catalog),
    }

    code, stdout = command.run(
        *(
            argument
            for option, text in files.items()
            for argument in (option, command.file(option[2:], MARK + text))
        )
    )

    assert code == 0
    assert len(parse(stdout).records) < 5  # the state was read


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("FILTER_OWNER_IDS", "1,2", "array"),
        ("FILTER_OWNER_IDS", "", "array"),
        ("PAGE_SIZE", "many", "integer"),
        ("PAGE_SIZE", "", "integer"),
        ("PAGE_SIZE", "1.5", "integer"),
        ("PAGE_SIZE", "true", "integer"),
        ("STREAM_MAPS", "x", "object"),
    ],
)
def test_a_variable_that_the_sdk_cannot_read(
    command: Command,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: str,
    kind: str,
) -> None:
    needed = {"TAP_HOMELE_AUTH_TOKEN": "x"}

    code, _ = command.run("--config=ENV", **needed, **{f"TAP_HOMELE_{name}": value})

    assert code == 1
    assert errors(caplog) == [
        f"TAP_HOMELE_{name}: it must be JSON, of type {kind}, or left out.",
        "Config validation failed",
    ]


def test_another_error_is_not_blamed_on_the_environment(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: TapHomele) -> None:
        raise ValueError("something else")

    monkeypatch.setattr(TapHomele, "setup_mapper", fail)

    with pytest.raises(ValueError, match="something else"):
        TapHomele(config=config_for(command.sandbox))


# The state.


@pytest.mark.parametrize(
    "state",
    [
        {"type": "STATE", "value": {"bookmarks": {"customers": {}}}},
        {"singer_state": {"bookmarks": {}}},
        {"bookmarks": {"customers": None}},
        {"bookmarks": None},
        {"bookmarks": []},
    ],
)
def test_a_state_that_is_none(
    command: Command, caplog: pytest.LogCaptureFixture, state: dict[str, Any]
) -> None:
    file = command.file("state.json", state)

    code, stdout = command.run("--config", command.settings(), "--state", file)

    assert code == 0
    assert len(parse(stdout).records) == 30
    assert warnings(caplog) == [NO_STATE]


@pytest.mark.parametrize("state", [{}, {"bookmarks": {}}])
def test_an_empty_state(
    command: Command, caplog: pytest.LogCaptureFixture, state: dict[str, Any]
) -> None:
    file = command.file("state.json", state)

    code, stdout = command.run("--config", command.settings(), "--state", file)

    assert (code, len(parse(stdout).records)) == (0, 30)
    assert warnings(caplog) == []


# The catalog.


def selection(is_selected: Callable[[list[str]], bool]) -> dict[str, Any]:
    catalog: dict[str, Any] = catalog_of().to_dict()
    for entry in catalog["streams"][0]["metadata"]:
        entry["metadata"]["selected"] = is_selected(entry["breadcrumb"])
    return catalog


@pytest.mark.parametrize("details", [False, True])
def test_a_catalog_that_lacks_a_stream(
    command: Command,
    caplog: pytest.LogCaptureFixture,
    details: bool,  # noqa: FBT001
) -> None:
    catalog = catalog_of().to_dict()
    if not details:
        catalog["streams"][0]["tap_stream_id"] = "leads"
    settings = command.settings(customer_details=details)

    code, _ = command.run(
        "--config", settings, "--catalog", command.file("catalog.json", catalog)
    )

    lacks = "customer_details" if details else "customers"
    said = f"The catalog has no stream {lacks}: make one with --discover."
    assert (code, errors(caplog)) == (1, [said])


def test_nothing_is_selected(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = command.file("catalog.json", selection(lambda _: False))

    code, stdout = command.run("--config", command.settings(), "--catalog", catalog)

    assert (code, stdout) == (0, "")
    assert warnings(caplog) == [
        "No stream is selected, so nothing is read. Select customers.*, say."
    ]


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize(
    ("parts", "warned"),
    [(set(), ["customers.owner.*"]), ({"name"}, []), ({"id", "name"}, [])],
)
def test_an_object_is_selected_and_its_parts_are_not(
    command: Command,
    caplog: pytest.LogCaptureFixture,
    parts: set[str],
    warned: list[str],
    flattened: bool,  # noqa: FBT001
) -> None:
    def is_selected(path: list[str]) -> bool:
        return path[1::2] in ([], ["id"], ["owner"], *(["owner", p] for p in parts))

    catalog = command.file("catalog.json", selection(is_selected))
    flat = {"flattening_enabled": True, "flattening_max_depth": 1} if flattened else {}
    settings = command.settings(**flat)

    code, stdout = command.run("--config", settings, "--catalog", catalog)

    assert code == 0
    assert warnings(caplog) == [
        f"Nothing of {name} is selected, so this column stays empty. Select it, too."
        for name in warned
    ]
    records = parse(stdout).records
    record = next(r for r in records if flattened or r["owner"] is not None)
    came = (
        {key.removeprefix("owner__") for key in record if key.startswith("owner__")}
        if flattened
        else {*record["owner"]}
    )
    assert came == parts


# What stands above an error, and what follows it.


def test_a_connection_test_succeeds_without_an_error(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    code, _ = command.run("--config", command.settings(), "--test")

    assert (code, errors(caplog)) == (0, [])


def test_the_line_of_the_sdk_above_an_error_is_for_debugging(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    code, _ = command.run("--config", command.settings(auth_token="wrong"))  # noqa: S106

    (said,) = errors(caplog)
    assert code == 1
    assert said.startswith("Homele does not know the token")
    line = "An unhandled error occurred while syncing 'customers'"
    assert [r.levelname for r in caplog.records if r.getMessage() == line] == ["DEBUG"]


def test_a_batch_that_cannot_be_written_is_not_blamed_on_the_target(
    command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    batches = {
        "encoding": {"format": "jsonl", "compression": "gzip"},
        # A file, and not a folder.
        "storage": {"root": f"file://{command.settings()}/batches"},
    }
    settings = command.settings(batch_config=batches)

    ended = CliRunner().invoke(TapHomele.get_singer_command(), ["--config", settings])

    assert isinstance(ended.exception, OSError)
    assert not any("target" in line for line in errors(caplog))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_the_disk_is_full(command: Command) -> None:
    tap = [sys.executable, "-m", "tap_homele", "--config", command.settings()]

    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            tap,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=clean_environment(),
        )

    assert ended.returncode == 1
    (error,) = [x for x in ended.stderr.splitlines() if " | ERROR " in x]
    assert "Traceback" not in ended.stderr
    assert "The target takes no more messages ([Errno 28] No space left" in error


def test_the_target_ends_first(command: Command) -> None:
    for row in make_customers(3000, seed=3):
        command.sandbox.add(row)
    tap = [sys.executable, "-m", "tap_homele", "--config", command.settings()]
    target = [sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"]
    with subprocess.Popen(
        tap,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as running:
        subprocess.run(target, stdin=running.stdout, check=False)
        assert running.stdout
        running.stdout.close()
        assert running.stderr
        log = running.stderr.read()

    assert running.returncode == 1
    (error,) = [line for line in log.splitlines() if " | ERROR " in line]
    assert "Traceback" not in log
    assert "Exception ignored" not in log
    assert error.endswith(
        "The target takes no more messages ([Errno 32] Broken pipe): see what it says "
        "above, and run both again. Nothing is lost."
    )


# What a catalog can ask for, and no stream can do.


def with_metadata(name: str, **root: Any) -> dict[str, Any]:
    """Give a catalog with metadata of a stream, as Meltano writes it."""
    catalog: dict[str, Any] = catalog_of(customer_details=True).to_dict()
    for stream in catalog["streams"]:
        if stream["tap_stream_id"] == name:
            # Meltano writes these two beside the metadata, too.
            stream |= {key.replace("-", "_"): value for key, value in root.items()}
            for entry in stream["metadata"]:
                if not entry["breadcrumb"]:
                    entry["metadata"] |= root
    return catalog


@pytest.mark.parametrize(
    ("stream", "root"),
    [
        ("customers", {"replication-key": "created_at"}),
        ("customers", {"replication-key": "id"}),
        ("customers", {"replication-key": "updatedat"}),
        ("customers", {"replication-method": "LOG_BASED"}),
        ("customers", {"replication-method": "FULL-TABLE"}),
        ("customer_details", {"replication-method": "INCREMENTAL"}),
        ("customer_details", {"replication-key": "updated_at"}),
    ],
)
def test_a_replication_that_no_stream_can_do_is_refused(
    command: Command,
    caplog: pytest.LogCaptureFixture,
    stream: str,
    root: dict[str, str],
) -> None:
    catalog = command.file("catalog.json", with_metadata(stream, **root))
    settings = command.settings(customer_details=True)

    code, stdout = command.run("--config", settings, "--catalog", catalog)

    can = (
        "INCREMENTAL or FULL_TABLE, and replication-key only updated_at"
        if stream == "customers"
        else "FULL_TABLE, and replication-key only none"
    )
    said = (
        f"{stream}: in the metadata, replication-method can only be {can}. Remove what "
        "is different."
    )
    assert (code, errors(caplog), stdout) == (1, [said], "")


def test_a_catalog_that_does_not_speak_of_replication_is_incremental(
    command: Command,
) -> None:
    catalog = catalog_of().to_dict()
    (stream,) = catalog["streams"]
    del stream["replication_key"], stream["replication_method"]
    for entry in stream["metadata"]:
        entry["metadata"].pop("replication-key", None)

    code, stdout = command.run(
        *("--config", command.settings()),
        *("--catalog", command.file("catalog.json", catalog)),
    )

    assert code == 0
    bookmark = parse(stdout).state["bookmarks"]["customers"]
    assert bookmark["replication_key"] == "updated_at"


@pytest.mark.parametrize("where", ["metadata", "nowhere", "entry"])
def test_deletes_that_are_asked_for_and_cannot_be_announced(
    command: Command, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """Singer's own key in the metadata means nothing to the SDK."""
    catalog = catalog_of("FULL_TABLE" if where == "entry" else "INCREMENTAL").to_dict()
    if where == "metadata":
        for entry in catalog["streams"][0]["metadata"]:
            if not entry["breadcrumb"]:
                entry["metadata"]["replication-method"] = "FULL_TABLE"
    settings = command.settings(emit_activate_version_messages=True)

    code, stdout = command.run(
        "--config", settings, "--catalog", command.file("catalog.json", catalog)
    )

    assert code == 0
    is_full_table = where == "entry"
    assert bool(parse(stdout).of("ACTIVATE_VERSION")) is is_full_table
    said = (
        "emit_activate_version_messages has no effect: for that, the "
        "replication_method of customers in the catalog has to be FULL_TABLE."
    )
    assert warnings(caplog) == ([] if is_full_table else [said])
