"""The tap: its streams and its command line."""

import io
import logging
import os
import signal
import sys
import threading
import typing as t
from collections.abc import Iterator

import msgspec
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import ConfigValidationError, FatalAPIError
from singer_sdk.metrics import Metric, MetricExclusionFilter
from singer_sdk.singerlib import ActivateVersionMessage, Message, RecordMessage

from tap_homele import config
from tap_homele.client import HomeleStream
from tap_homele.details import CustomerDetailsStream
from tap_homele.http import Session
from tap_homele.streams import CustomersStream

# The SDK logs how long each request took, one line each, how many there were, one line
# for each reading of the list, and both ends of each hundred details. The tap's last
# line has the sums.
_NOT_EACH_REQUEST = MetricExclusionFilter(
    metrics=[Metric.HTTP_REQUEST_DURATION.value, Metric.HTTP_REQUEST_COUNT.value],
    tags={"stream": CustomerDetailsStream.name},
)

_NOT_FULL_TABLE = (
    "emit_activate_version_messages has no effect: for that, the replication_method of "
    "customers in the catalog has to be FULL_TABLE."
)

_INVALID = "Config validation failed"

_NO_PARTS = "Nothing of {} is selected, so this column stays empty. Select it, too."

_NOTHING = "No stream is selected, so nothing is read. Select customers.*, say."

_NO_STATE = (
    'The state is not like {"bookmarks": {"customers": {…}}}: reading all customers.'
)


def _is_needed(line: logging.LogRecord) -> bool:
    """Leave out what the SDK says of each customer without an ``updated_at``."""
    return line.getMessage() != "New replication value is null"


class Writer(MsgSpecWriter):
    """Flushes stdout at each STATE, not at each RECORD; holds ACTIVATE_VERSION back.

    The SDK writes ACTIVATE_VERSION before the records, and a target deletes on arrival:
    after a run that fails rows would be missing. So the streams let it go at their end.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        super().__init__()
        self._held: dict[str, ActivateVersionMessage] = {}

    def write_message(self, message: Message) -> None:
        """Write a message, or hold it back.

        Args:
            message: Any. If it is not a record, the target gets it now, and all before.

        Raises:
            FatalAPIError: If nobody takes it: the target has ended, say.
        """
        if isinstance(message, ActivateVersionMessage):
            self._held[message.stream] = message
        else:
            self.write(message)

    def activate_version(self, name: str) -> None:
        """Write what was held back of the stream with a name, if anything was."""
        if message := self._held.pop(name, None):
            self.write(message)

    def write(self, message: Message) -> None:
        """Write a message to standard output; see ``write_message``."""
        try:
            sys.stdout.buffer.write(self.format_message(message))
            if not isinstance(message, RecordMessage):
                sys.stdout.buffer.flush()
        except OSError as error:
            # Python would complain again when it flushes what is left.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise FatalAPIError(
                f"The target takes no more messages ({error}): see what it says above, "
                "and run both again. Nothing is lost."
            ) from None


class TapHomele(Tap):
    """Singer tap for Homele CRM."""

    name = "tap-homele"
    message_writer_class = Writer

    config_jsonschema: t.ClassVar[dict[str, t.Any]] = config.SCHEMA

    def __init__(self, *, validate_config: bool = True, **kwargs: t.Any) -> None:
        """Make the tap.

        Args:
            validate_config: Refuse settings that cannot be right. The SDK switches it
                off for ``--discover``, which needs no settings.
            **kwargs: The SDK's: config, catalog, state and so on.

        Raises:
            ConfigValidationError: If a setting is missing, unknown or unreadable.
        """
        # Sends the requests of all streams, which share one rate limit.
        self.session = Session()
        try:
            super().__init__(validate_config=validate_config, **kwargs)
        except ConfigValidationError as error:
            error.errors = [config.without_value(sentence) for sentence in error.errors]
            raise
        except ValueError:
            # The SDK takes for granted that the environment can be read.
            errors = list(config.environment_errors(self.config_jsonschema, os.environ))
            if not errors:
                raise
            raise ConfigValidationError(_INVALID, errors=errors) from None
        # Its messages hold the query of a request, and that may hold a person's name.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        logging.getLogger("singer_sdk").addFilter(_is_needed)
        self.metrics_logger.addFilter(_NOT_EACH_REQUEST)
        if validate_config:
            if errors := list(config.setting_errors(self.config)):
                raise ConfigValidationError(_INVALID, errors=errors)
            for sentence in self._warnings():
                self.logger.warning(sentence)
        # The SDK's own handlers exit with 0.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)

    def _warnings(self) -> Iterator[str]:
        """Yield a sentence for what is set or selected, and may not be meant so."""
        yield from config.setting_warnings(self.config)
        for stream in self.streams.values():
            for column in empty_columns(stream):
                yield _NO_PARTS.format(column)
        customers = self.streams[CustomersStream.name]
        wants_deletes = self.config["emit_activate_version_messages"]
        if wants_deletes and customers.replication_method != "FULL_TABLE":
            yield _NOT_FULL_TABLE
        if not any(stream.selected for stream in self.streams.values()):
            yield _NOTHING

    def _stop(self, number: int, frame: object) -> None:  # noqa: ARG002
        """Exit. The state of the last complete page is written already."""
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)  # once is enough
        self.logger.warning("Stopped by %s.", signal.Signals(number).name)
        sys.exit(128 + number)

    def load_state(self, state: dict[str, t.Any]) -> None:
        """Take the state, or say that it is none.

        Args:
            state: Of an earlier run. If it is not spelled like one, it is left out.
        """
        bookmarks = state.get("bookmarks") if state else {}
        if isinstance(bookmarks, dict) and all(
            isinstance(bookmark, dict) for bookmark in bookmarks.values()
        ):
            super().load_state(state)
        else:
            self.logger.warning(_NO_STATE)

    def discover_streams(self) -> list[HomeleStream]:
        """Return the streams of the catalog.

        Meltano selects all that are there, so the expensive one is there if asked for.
        """
        streams: list[HomeleStream] = [CustomersStream(self)]
        if self.config.get("customer_details"):
            streams.append(CustomerDetailsStream(self))
        return streams

    @classmethod
    def invoke(cls, **kwargs: t.Any) -> None:
        """Run the tap from the command line.

        What went wrong is said in one sentence; the traceback is for LOGLEVEL=DEBUG.

        Args:
            **kwargs: The SDK's command line.
        """
        try:
            for option in ("state", "catalog"):
                if file := kwargs[option]:
                    kwargs[option] = _checked(option, file)
            super().invoke(**kwargs)
        except FatalAPIError as error:
            debug = cls.logger.isEnabledFor(logging.DEBUG)
            cls.logger.error("%s", error, exc_info=debug)
            sys.exit(1)

    @classmethod
    def cb_config(cls, ctx: t.Any, param: t.Any, value: tuple[str, ...]) -> t.Any:
        """Read the files of --config.

        Args:
            ctx: The command line's context, which ends if a file cannot be read.
            param: The option.
            value: The names of the files; ENV is none.
        """
        try:
            return super().cb_config(ctx, param, value)
        except (OSError, TypeError, ValueError) as error:
            # Not read again to find out more: a file can be a pipe.
            names = ", ".join(value)
            cls.logger.error("The settings cannot be read from %s: %s", names, error)
            ctx.exit(1)


def empty_columns(stream: Stream) -> Iterator[str]:
    """Yield the columns that are selected, but of whose parts none is."""
    for name, column in stream.schema["properties"].items():
        path = ("properties", name)
        parts = [(*path, "properties", part) for part in column.get("properties", ())]
        if parts and stream.mask[path] and not any(stream.mask[p] for p in parts):
            yield f"{stream.name}.{name}.*"


class _CatalogEntry(msgspec.Struct):
    """A stream in a catalog, as far as the SDK takes it for granted."""

    tap_stream_id: str
    schema: dict[str, t.Any]
    metadata: list[dict[str, t.Any]]


def _checked(option: str, file: t.IO[str]) -> io.StringIO:
    """Check a file of the command line, whose shape the SDK takes for granted.

    Returns:
        Its text, without the byte order mark that Windows likes to write.

    Raises:
        FatalAPIError: If it is not what it should be.
    """
    kind = dict[str, t.Any] if option == "state" else dict[str, list[_CatalogEntry]]
    try:
        text = file.read().removeprefix("\ufeff")
        msgspec.json.decode(text, type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise FatalAPIError(
            f"The file of --{option}, {file.name}, cannot be read: {error}."
        ) from None
    return io.StringIO(text)
