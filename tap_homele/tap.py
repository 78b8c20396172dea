"""The tap: its settings and its streams."""

from __future__ import annotations

import io
import json
import logging
import re
import signal
import sys
import typing as t
from datetime import date

from singer_sdk import Tap
from singer_sdk import typing as th
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import ConfigValidationError, FatalAPIError
from singer_sdk.metrics import Metric, MetricExclusionFilter
from singer_sdk.singerlib import Message, RecordMessage

from tap_homele import records
from tap_homele.client import API_PATH, HomeleStream, base_url
from tap_homele.streams import CustomerDetailsStream, CustomersStream

if t.TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_MAKE_ONE = "Make one in Homele under Settings > API Integration."

_DEFAULT_API_URL = f"https://crm.homele.com{API_PATH}"

# The SDK logs how long each request took, one line each, how many there were, one line
# for each reading of the list, and both ends of each hundred details. The tap's last
# line has the sums.
_NOT_EACH_REQUEST = MetricExclusionFilter(
    metrics=[Metric.HTTP_REQUEST_DURATION.value, Metric.HTTP_REQUEST_COUNT.value],
    tags={"stream": CustomerDetailsStream.name},
)


class Writer(MsgSpecWriter):
    """Hands on what was written with each state, not with each record."""

    def write_message(self, message: Message) -> None:
        """Write a message to standard output.

        Args:
            message: Any. If it is not a record, the target gets it now, and all before.
        """
        sys.stdout.buffer.write(self.format_message(message))
        if not isinstance(message, RecordMessage):
            sys.stdout.buffer.flush()


class TapHomele(Tap):
    """Singer tap for Homele CRM."""

    name = "tap-homele"
    message_writer_class = Writer

    # A misspelt setting must not pass silently, so none is accepted that is not here.
    # The SDK adds those of its own (stream maps, flattening, batches).
    config_jsonschema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        th.Property(
            "auth_token",
            th.StringType,
            required=True,
            secret=True,
            title="Token",
            description=(
                "API token, made in Homele under Settings > API Integration with the "
                "permission customer:read."
            ),
        ),
        th.Property(
            "api_url",
            th.StringType,
            default=_DEFAULT_API_URL,
            title="API URL",
            description=(
                "Address of the API. For a company with a domain of its own the domain "
                "is enough, such as https://crm.acme.example."
            ),
            examples=["https://crm.acme.example"],
        ),
        th.Property(
            "start_date",
            th.DateTimeType,
            title="Start date",
            description=(
                "The first run takes only customers that changed since then: a date or "
                "a time in ISO 8601. Without it, all."
            ),
            examples=["2026-01-01"],
        ),
        th.Property(
            "user_agent",
            th.StringType,
            title="User agent",
            description="User-Agent header, instead of tap-homele and its version.",
        ),
        th.Property(
            "page_size",
            th.IntegerType(minimum=1, maximum=100),
            default=100,
            title="Page size",
            description="Customers per request, 1 to 100.",
            examples=[50],
        ),
        th.Property(
            "filter_query",
            th.StringType,
            title="Filter: name",
            description="Only customers whose name matches this search.",
            examples=["Sara"],
        ),
        th.Property(
            "filter_lead_status_ids",
            th.ArrayType(th.IntegerType),
            title="Filter: lead statuses",
            description="Only customers with one of these lead statuses, by id.",
            examples=[[1, 2]],
        ),
        th.Property(
            "filter_owner_ids",
            th.ArrayType(th.IntegerType),
            title="Filter: owners",
            description="Only customers of one of these owners, by id.",
            examples=[[1, 2]],
        ),
        th.Property(
            "filter_lead_source_ids",
            th.ArrayType(th.IntegerType),
            title="Filter: lead sources",
            description="Only customers from one of these lead sources, by id.",
            examples=[[1, 2]],
        ),
        th.Property(
            "filter_priority_id",
            th.IntegerType,
            title="Filter: priority",
            description="Only customers with this priority, by id.",
            examples=[1],
        ),
        th.Property(
            "filter_created_from",
            th.DateType,
            title="Filter: created from",
            description="Only customers created after this date (YYYY-MM-DD).",
            examples=["2026-01-01"],
        ),
        th.Property(
            "filter_created_to",
            th.DateType,
            title="Filter: created to",
            description="Only customers created before this date (YYYY-MM-DD).",
            examples=["2026-12-31"],
        ),
        th.Property(
            "scan_by",
            th.StringType(allowed_values=["auto", "cursor", "created_date"]),
            default="auto",
            title="Scan by",
            description=(
                "How the list is read: by the API's cursor, by windows of the created "
                "date, or auto: by the cursor, unless it turns out to hide customers."
            ),
            examples=["created_date"],
        ),
        th.Property(
            "customer_details",
            th.BooleanType,
            default=False,
            title="Customer details",
            description=(
                "Adds the stream customer_details: all that Homele knows of each "
                "customer that changed, for one more request each."
            ),
            examples=[True],
        ),
        th.Property(
            "emit_activate_version_messages",
            th.BooleanType,
            default=False,
            title="Emit ACTIVATE_VERSION messages",
            description=(
                "With FULL_TABLE replication, tell the target to remove customers that "
                "are gone from Homele."
            ),
            examples=[True],
        ),
        additional_properties=False,
    ).to_dict()

    def __init__(self, *, validate_config: bool = True, **kwargs: t.Any) -> None:
        """Make the tap.

        Args:
            validate_config: Refuse settings that cannot be right. The SDK switches it
                off for ``--discover``, which needs no settings.
            **kwargs: The SDK's: config, catalog, state and so on.

        Raises:
            ConfigValidationError: If a setting is missing, unknown or unreadable.
        """
        try:
            super().__init__(validate_config=validate_config, **kwargs)
        except ConfigValidationError as error:
            error.errors = [_without_value(sentence) for sentence in error.errors]
            raise
        # Its messages hold the query of a request, and that may hold a person's name.
        for name in ("urllib3", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if not self.metrics_logger.isEnabledFor(logging.DEBUG):
            self.metrics_logger.addFilter(_NOT_EACH_REQUEST)
        if validate_config and (errors := list(self._setting_errors())):
            raise ConfigValidationError("Config validation failed", errors=errors)
        for name, state in self.state.get("bookmarks", {}).items():
            stream = self.streams.get(name)
            if isinstance(stream, CustomersStream):
                stream.start_from(state)

    def _setting_errors(self) -> Iterator[str]:
        """Check what a JSON schema cannot.

        Yields:
            A sentence for each setting that is wrong. It never holds the token.
        """
        config = self.config
        yield from _token_errors(config["auth_token"])
        for name in ("api_url", "page_size"):
            if config[name] in {None, ""}:
                yield f"{name}: it must not be empty; leave it out for the default."
        try:
            base_url(config["api_url"] or _DEFAULT_API_URL)
        except ValueError as error:
            yield f"api_url: {error}."
        if not _fits_a_header(config.get("user_agent") or ""):
            yield "user_agent: it must be plain ASCII on one line."
        start_date = config.get("start_date")
        if start_date and records.utc(start_date) is None:
            yield (
                f"start_date: '{start_date}' is not a date or time in ISO 8601, such "
                "as 2026-01-31 or 2026-01-31T08:00:00Z."
            )
        yield from _created_errors(
            config.get("filter_created_from"), config.get("filter_created_to")
        )

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """End on SIGTERM or Ctrl-C: with an exit code that says so.

        The state of the last page is written already, and a page that was not read to
        its end has none. The SDK would exit with 0, and has no public hook for it;
        ``test_signals`` fails when it no longer calls this one.
        """
        del frame
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # once is enough
        self.logger.warning("Stopped by %s.", signal.Signals(signum).name)
        sys.exit(128 + signum)

    def discover_streams(self) -> list[HomeleStream]:
        """Give the streams of the catalog.

        Meltano selects all that are there, so the expensive one is there if asked for.
        """
        streams: list[HomeleStream] = [CustomersStream(tap=self)]
        if self.config.get("customer_details"):
            streams.append(CustomerDetailsStream(tap=self))
        return streams

    @classmethod
    def invoke(cls, **kwargs: t.Any) -> None:
        """Run the tap from the command line.

        What went wrong is said in one sentence; the traceback is for LOGLEVEL=DEBUG.

        Args:
            **kwargs: The SDK's command line.
        """
        try:
            super().invoke(**kwargs | _checked(kwargs))
        except FatalAPIError as error:
            debug = cls.logger.isEnabledFor(logging.DEBUG)
            cls.logger.error("%s", error, exc_info=debug)
            sys.exit(1)


def _without_value(sentence: str) -> str:
    """Say what the SDK says of a setting without its value, which can be a secret."""
    if unknown := re.search(r"\((.+) (?:was|were) unexpected\)$", sentence):
        return " ".join(map(_unknown, re.findall(r"'([^']+)'", unknown[1])))
    if missing := re.fullmatch(r"'(\w+)' is a required property", sentence):
        return f"{missing[1]}: it is missing. {_MAKE_ONE}"
    found = re.search(r"config\['(\w+)'\](?:\[(\d+)\])?$", sentence)
    if found is None:
        return sentence
    setting = TapHomele.config_jsonschema["properties"][found[1]]
    if found[2]:
        return f"{found[1]}: each of the list must be {_kind(setting['items'])}."
    return f"{found[1]}: it must be {_kind(setting)}."


def _unknown(name: str) -> str:
    """Say that there is no such setting, and which one may be meant."""
    import difflib  # noqa: PLC0415 - a good start-up has no use for it

    known = TapHomele.config_jsonschema["properties"]
    similar = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    return f"{name}: there is no such setting.{hint}"


def _kind(schema: dict[str, t.Any]) -> str:
    """Say in words what a JSON schema takes."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, filter(None, schema['enum'])))}"
    if "maximum" in schema:
        return f"a whole number from {schema['minimum']} to {schema['maximum']}"
    kinds = {
        "string": "text",
        "integer": "a whole number",
        "boolean": "true or false",
        "array": "a list",
        "object": "an object",
    }
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return " or ".join(kinds[kind] for kind in types if kind in kinds)


def _token_errors(token: str) -> Iterator[str]:
    if not token:
        yield f"auth_token: it is empty. {_MAKE_ONE}"
    elif token.split() != [token] or not _fits_a_header(token):
        yield (
            "auth_token: it must be the token alone, such as 1|abc123, without "
            "'Bearer' and without spaces."
        )


def _fits_a_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _created_errors(first: str | None, last: str | None) -> Iterator[str]:
    for name, day in (("filter_created_from", first), ("filter_created_to", last)):
        if day and not _is_date(day):
            yield f"{name}: '{day}' is not a date such as 2026-01-31."
    if first and last and first > last:
        yield "filter_created_from: it is later than filter_created_to."


def _is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _checked(options: dict[str, t.Any]) -> dict[str, t.Any]:
    """See that the files of the command line hold JSON: the SDK takes it for granted.

    Args:
        options: The SDK's command line.

    Returns:
        The files that were read to check them, to be read again.
    """
    files = {}
    for name in ("state", "catalog"):
        if file := options.get(name):
            text = file.read()
            try:
                json.loads(text)
            except ValueError:
                raise FatalAPIError(
                    f"The file of --{name}, {file.name}, is not JSON. It should hold "
                    "one JSON object."
                ) from None
            files[name] = io.StringIO(text)
    return files
