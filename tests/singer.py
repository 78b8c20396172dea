"""Run the tap, and take the Singer messages that it writes."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator, FormatChecker
from singer_sdk.singerlib import Catalog

from tap_homele.tap import TapHomele
from tap_homele.tap import Writer as TapWriter
from tests.sandbox.server import TOKEN, Sandbox

if TYPE_CHECKING:
    from pathlib import Path

Message = dict[str, Any]


@dataclass
class Output:
    """The messages of one run, in their order."""

    messages: list[Message]

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def kinds(self) -> list[str]:
        """The types of the messages, a run of the same one named once."""
        kinds: list[str] = []
        for message in self.messages:
            if kinds[-1:] != [message["type"]]:
                kinds.append(message["type"])
        return kinds

    @property
    def records(self) -> list[dict[str, Any]]:
        return [message["record"] for message in self.of("RECORD")]

    @property
    def ids(self) -> list[int]:
        return [record["id"] for record in self.records]

    def records_of(self, stream: str) -> list[dict[str, Any]]:
        records = self.of("RECORD")
        return [message["record"] for message in records if message["stream"] == stream]

    @property
    def states(self) -> list[dict[str, Any]]:
        return [message["value"] for message in self.of("STATE")]

    @property
    def state(self) -> dict[str, Any]:
        """The last state, which is what Meltano keeps."""
        return self.states[-1]

    def validate(self) -> None:
        """Check each record against the schema that went before it."""
        validators = {
            message["stream"]: Draft202012Validator(
                message["schema"], format_checker=FormatChecker()
            )
            for message in self.of("SCHEMA")
        }
        for message in self.of("RECORD"):
            validators[message["stream"]].validate(message["record"])


def stream_state(output: Output | dict[str, Any]) -> dict[str, Any]:
    """Give the state of the stream of customers."""
    state = output.state if isinstance(output, Output) else output
    found: dict[str, Any] = state["bookmarks"]["customers"]
    return found


def saved(output: Output | dict[str, Any]) -> dict[str, Any]:
    """Give what stands in the state beside the bookmark."""
    found: dict[str, Any] = stream_state(output)["saved"]
    return found


def open_scan(output: Output | dict[str, Any]) -> dict[str, Any]:
    """Give the scan that has not ended; one without a ``list_id`` is none."""
    found: dict[str, Any] = saved(output)["open_scan"]
    return found


def is_open(output: Output | dict[str, Any]) -> bool:
    return bool(open_scan(output)["list_id"])


def failed_scans(output: Output | dict[str, Any]) -> int:
    """Give how many full scans in a row have left the cursor."""
    found: int = saved(output)["cursor_trust"]["failed_scans"]
    return found


class KilledError(BaseException):
    """The end of a run that nothing in it can catch, as ``kill -9``."""


class Writer(TapWriter):
    """Keeps what a target would read, and can kill the tap between two messages."""

    def __init__(
        self,
        messages: list[Message],
        kill_after: float = math.inf,
        parse_float: type = float,
    ) -> None:
        super().__init__()
        self.parse_float = parse_float
        self.messages = messages
        self.kill_after = kill_after

    def write(self, message: Any) -> None:
        if len(self.messages) >= self.kill_after:
            raise KilledError
        line = self.format_message(message)
        self.messages.append(json.loads(line, parse_float=self.parse_float))


def config_for(sandbox: Sandbox, **settings: Any) -> dict[str, Any]:
    """Give the settings for a sandbox; if not told otherwise, by the cursor alone."""
    needed = {"auth_token": TOKEN, "api_url": sandbox.api_url, "scan_by": "cursor"}
    return needed | settings


def catalog_of(method: str = "INCREMENTAL", **settings: Any) -> Catalog:
    """Give the catalog of the tap with another replication method for customers."""
    tap = TapHomele(config=settings, validate_config=False)
    catalog = json.loads(tap.catalog_json_text)
    for stream in catalog["streams"]:
        if stream["tap_stream_id"] == "customers":
            stream["replication_method"] = method
    return Catalog.from_dict(catalog)


def sync(  # noqa: PLR0913
    sandbox: Sandbox,
    *,
    state: dict[str, Any] | None = None,
    catalog: Catalog | None = None,
    output: Output | None = None,
    kill_after: float = math.inf,
    parse_float: type = float,
    **settings: Any,
) -> Output:
    """Run the tap in this process, and kill it after so many messages.

    What it wrote before an error is in ``output``.
    """
    output = Output([]) if output is None else output
    tap = TapHomele(
        config=config_for(sandbox, **settings),
        state=copy.deepcopy(state),
        catalog=copy.deepcopy(catalog),
        message_writer=Writer(output.messages, kill_after, parse_float),
    )
    with contextlib.suppress(KilledError):
        tap.sync_all()
    return output


def run(
    folder: Path,
    sandbox: Sandbox,
    *,
    state: dict[str, Any] | None = None,
    **settings: Any,
) -> subprocess.CompletedProcess[str]:
    """Run the tap as a command, as a user or Meltano does.

    What is written in capitals is a variable of the environment.
    """
    variables = {name: settings.pop(name) for name in [*settings] if name.isupper()}
    config = folder / "config.json"
    config.write_text(json.dumps(config_for(sandbox, **settings)))
    command = [sys.executable, "-m", "tap_homele", "--config", str(config)]
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state))
        command += ["--state", str(folder / "state.json")]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment() | variables,
    )


def merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Merge states as Meltano does: objects key by key, anything else replaced.

    Like Meltano it cannot merge an object into what is none, null included.
    """
    merged = dict(old)
    for key, value in new.items():
        is_object = isinstance(value, dict)
        merged[key] = merge(merged.get(key, {}), value) if is_object else value
    return merged


def clean_environment() -> dict[str, str]:
    """Give the environment without what could configure the tap or the target."""
    prefixes = (
        *("TAP_HOMELE", "TARGET_POSTGRES", "LOGLEVEL", "MELTANO"),
        # Without them Python starts in half the time, and buffers as it does for users.
        *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    )
    return {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}


def parse(stdout: str) -> Output:
    return Output([json.loads(line) for line in stdout.splitlines()])
