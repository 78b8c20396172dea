"""The tap: its streams and its command line."""

import io
import json
import logging
import signal
import sys
import threading
import typing as t

from singer_sdk import Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import ConfigValidationError, FatalAPIError
from singer_sdk.metrics import Metric, MetricExclusionFilter
from singer_sdk.singerlib import Message, RecordMessage

from tap_homele.client import HomeleStream
from tap_homele.config import SCHEMA, setting_errors, without_value
from tap_homele.http import Session
from tap_homele.streams import CustomerDetailsStream, CustomersStream

# The SDK logs how long each request took, one line each, how many there were, one line
# for each reading of the list, and both ends of each hundred details. The tap's last
# line has the sums.
_NOT_EACH_REQUEST = MetricExclusionFilter(
    metrics=[Metric.HTTP_REQUEST_DURATION.value, Metric.HTTP_REQUEST_COUNT.value],
    tags={"stream": CustomerDetailsStream.name},
)


class Writer(MsgSpecWriter):
    """Flushes stdout at each STATE, not at each RECORD."""

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

    config_jsonschema: t.ClassVar[dict[str, t.Any]] = SCHEMA

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
            error.errors = [without_value(sentence) for sentence in error.errors]
            raise
        # Its messages hold the query of a request, and that may hold a person's name.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        if not self.metrics_logger.isEnabledFor(logging.DEBUG):
            self.metrics_logger.addFilter(_NOT_EACH_REQUEST)
        if validate_config and (errors := list(setting_errors(self.config))):
            raise ConfigValidationError("Config validation failed", errors=errors)
        # The SDK's own handlers exit with 0.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: object) -> None:  # noqa: ARG002
        """Exit. The state of the last complete page is written already."""
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)  # once is enough
        self.logger.warning("Stopped by %s.", signal.Signals(number).name)
        sys.exit(128 + number)

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
                    kwargs[option] = _read_json(option, file)
            super().invoke(**kwargs)
        except FatalAPIError as error:
            debug = cls.logger.isEnabledFor(logging.DEBUG)
            cls.logger.error("%s", error, exc_info=debug)
            sys.exit(1)


def _read_json(option: str, file: t.IO[str]) -> t.IO[str]:
    """Read a file of the command line; the SDK takes for granted that it holds JSON."""
    text = file.read()
    try:
        json.loads(text)
    except ValueError:
        raise FatalAPIError(
            f"The file of --{option}, {file.name}, is not JSON. It should hold one "
            "JSON object."
        ) from None
    return io.StringIO(text)
