"""The base class of the streams: requests, envelope, errors; the SDK's defaults."""

import functools
import logging
import re
import typing as t
import weakref
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import backoff
import requests
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.helpers.types import Context, RequestFunc
from singer_sdk.singerlib import (
    Catalog,
    CatalogEntry,
    RecordMessage,
    StreamMetadata,
)
from singer_sdk.streams import RESTStream

from tap_homele import records
from tap_homele.config import base_url
from tap_homele.errors import (
    ForbiddenError,
    OutageError,
    PageError,
    ServerError,
    TokenError,
)
from tap_homele.http import (
    Session,
    SuspectError,
    body_of,
    endpoint_of,
    retry_after,
    waits,
)
from tap_homele.pagination import CursorPaginator, page_error

# What to do about an answer that will not change, by its status. 302 is a redirect,
# 0 a 400, 401 or 403 that is not in JSON.
REFUSALS: t.Final[dict[int, str]] = {
    0: "{endpoint} was answered with {said} by something in between, such as a "
    "firewall or a proxy: Homele answers in JSON. Ask who runs it to let this "
    "machine through, and check the setting api_url.",
    302: "{endpoint} was answered with a redirect ({said}), which is not followed, "
    "since the token is for this address only. Check the setting api_url.",
    401: "Homele does not know the token ({said}, {endpoint}): it is wrong, "
    "expired or revoked. Make a new one in Homele under Settings > API "
    "Integration and set it as auth_token.",
    403: "The token is not allowed to do this ({said}, {endpoint}). Give it the "
    "permission customer:read in Homele under Settings > API Integration.",
    404: "There is no Homele API at this address ({said}, {endpoint}). Check the "
    "setting api_url; if it has worked before, run the tap again later.",
}


# What to do about an answer that is not Homele's.
_OTHER = (
    "Homele may be under maintenance, or another API may be at this address: run the "
    "tap again later; if it stays so, check the setting api_url."
)

# How a stream can be read.
METHODS: t.Final = ("INCREMENTAL", "FULL_TABLE")


class HomeleStream(RESTStream[str | None]):
    """A stream of the Homele API."""

    primary_keys: t.ClassVar[list[str]] = ["id"]

    # The token goes to the configured host and to no other; and a redirect to a login
    # page, which Laravel can send, must not be taken for an answer.
    allow_redirects = False

    # Seconds to wait for a connection, and for each part of an answer.
    timeout: t.Any = (10, 60)

    # What to do about an answer that will not change.
    refusals = REFUSALS

    # Records fit the schema already: there is nothing left for the SDK to conform.
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE

    def __init__(self, tap: t.Any) -> None:
        """Make a stream that uses the session of the tap."""
        super().__init__(tap)
        self.session: Session = tap.session
        self._answers = weakref.WeakKeyDictionary[requests.Response, records.Record]()

    @property
    def requests_session(self) -> Session:
        """The session that sends the requests."""
        return self.session

    @functools.cached_property
    def url_base(self) -> str:
        """The address of the API, without a slash at its end."""
        return base_url(self.config["api_url"])

    @property
    def http_headers(self) -> dict[str, str]:
        """Laravel answers errors in JSON only to a client that accepts JSON first."""
        return {"Accept": "application/json"}

    @functools.cached_property
    def user_agent(self) -> str:
        """The setting ``user_agent``, or this tap and its version."""
        return self.config.get("user_agent") or f"tap-homele/{self._tap.plugin_version}"

    @functools.cached_property
    def authenticator(self) -> BearerTokenAuthenticator:
        """Sends the token as ``Authorization: Bearer``."""
        return BearerTokenAuthenticator(token=self.config["auth_token"])

    @functools.cached_property
    def fitter(self) -> records.Fitter:
        """Makes records of rows."""
        flattening = self.config.get("flattening_enabled")
        flattened = bool(flattening and self.config.get("flattening_max_depth"))
        return records.Fitter(self.schema, flattened=flattened)

    def log(self, *args: t.Any, level: int = logging.INFO, **kwargs: t.Any) -> None:
        """Log what the SDK says; its line above each error only for LOGLEVEL=DEBUG."""
        level = logging.DEBUG if level == logging.ERROR else level
        super().log(*args, level=level, **kwargs)

    def progress(self) -> str:
        """Say how far this stream is, for the log of a long run."""
        return "reading"

    @property
    def hint(self) -> str:
        """What may be why a request fails, in a sentence; empty, if nothing may."""
        return ""

    def read_answer(self, response: requests.Response) -> records.Record:
        """Return the envelope of an answer. It is parsed once."""
        if response not in self._answers:
            self._answers[response] = parse_answer(response)
        return self._answers[response]

    def validate_response(self, response: requests.Response) -> None:
        """Check an answer; inside the retries, so that half a body is tried again."""
        if response.status_code != HTTPStatus.OK:
            raise refused(response, self.refusals, self.hint)
        self.read_answer(response)
        self.session.report(self.name, self.progress())

    def request_decorator(self, func: RequestFunc) -> RequestFunc:
        """Try a request again, as ``waits`` decides; raises no retriable error."""
        return backoff.on_exception(
            waits,
            RetriableAPIError,
            on_backoff=self.backoff_handler,
            on_giveup=lambda tries: given_up(tries, self.session.answers, self.hint),
            jitter=None,
            logger=None,
        )(func)

    def backoff_handler(self, details: t.Any) -> None:
        """Log that the tap waits before it tries a request again."""
        failure, seconds = details["exception"], details["wait"]
        if status_of(failure) == HTTPStatus.TOO_MANY_REQUESTS:
            self.session.report(self.name, self.progress(), waits_for=seconds)
        else:
            self.logger.warning("%s Trying again in %.0f s.", failure, seconds)

    def get_new_paginator(self) -> CursorPaginator | None:
        """Return what follows the cursor of a list."""
        return CursorPaginator(self.read_answer)

    def log_misfits(self) -> None:
        """Log which fields did not fit their column, have none, or did not come."""
        columns = self.schema["properties"]
        selected = {name for name in columns if self.mask["properties", name]}
        for level, sentence in self.fitter.misfits_said(selected):
            self.logger.log(level, "%s: %s", self.name, sentence)

    def parse_response(self, response: requests.Response) -> Iterator[t.Any]:
        """Yield a record for each row of an answer."""
        return fitted_rows(self.fitter, response, self.read_answer(response))

    def get_records(self, context: Context | None) -> Iterator[t.Any]:
        """Yield all records, and have the target delete those that are gone."""
        yield from self.request_records(context)
        self.activate_version()

    @property
    def announces_deletes(self) -> bool:
        """Whether ACTIVATE_VERSION follows the last record."""
        is_full_table = self.replication_method == "FULL_TABLE"
        return is_full_table and self.emit_activate_version_messages

    def activate_version(self) -> None:
        """Have the target delete the rows of other versions, if that is wanted."""
        writer: t.Any = self._tap.message_writer  # holds ACTIVATE_VERSION back
        for to in self.stream_maps:
            writer.activate_version(to.stream_alias)

    def apply_catalog(self, catalog: Catalog) -> None:
        """Take the selection and the replication method.

        Raises:
            FatalAPIError: If this stream is not in the catalog, or is to be read in a
                way that it cannot: the SDK would quietly do something else.
        """
        if self.name not in catalog:
            sentence = "The catalog has no stream {}: make one with --discover."
            raise FatalAPIError(sentence.format(self.name))
        key = self.replication_key
        super().apply_catalog(catalog)
        check_replication(catalog[self.name], key, self.replication_method)
        self.replication_key = key

    def _generate_record_messages(
        self, record: records.Record
    ) -> t.Generator[RecordMessage, None, None]:
        """Make the messages of a record, without looking for deselected columns.

        That takes a fifth of the time, and has no public hook; ``test_whole_records``
        fails when the SDK no longer calls this method, or does more.
        """
        if not self.is_whole:
            yield from super()._generate_record_messages(record)
            return
        for to in self.stream_maps:
            if (mapped := to.transform(record)) is not None:
                at, version = records.utc_now(), self._stream_version
                yield RecordMessage(to.stream_alias, mapped, version, at)

    @functools.cached_property
    def is_whole(self) -> bool:
        """Whether all columns are selected."""
        return all(self.mask.values())


def check_replication(entry: CatalogEntry, key: str | None, method: str) -> None:
    """Check how a stream is to be read.

    Args:
        entry: What the catalog says of it.
        key: Its replication key, which no catalog can change.
        method: The replication method that the SDK has read from the catalog.

    Raises:
        FatalAPIError: If it cannot be read so.
    """
    about = t.cast("StreamMetadata", entry.metadata.get((), StreamMetadata()))
    others = {entry.replication_key, about.replication_key} - {None, key}
    methods = METHODS if key else METHODS[1:]
    if others or method not in methods:
        raise FatalAPIError(
            f"{entry.tap_stream_id}: in the metadata, replication-method can only be "
            f"{' or '.join(methods)}, and replication-key only {key or 'none'}. Remove "
            "what is different."
        )


def fitted_rows(
    fitter: records.Fitter, response: requests.Response, answer: records.Record
) -> Iterator[records.Record]:
    """Yield a record for each row of an answer.

    Raises:
        PageError: If ``data`` is not a list, or a row cannot be stored.
    """
    rows = answer["data"]
    if not isinstance(rows, list):
        endpoint = endpoint_of(response.request)
        raise PageError(f"{endpoint} was answered with 'data' that is not a list.")
    number = 0
    try:
        for number, row in enumerate(rows, 1):  # noqa: B007
            yield fitter.fit(row)
    except records.MisfitError as reason:
        what = f"cannot be stored: row {number} {reason}"
        raise page_error(what) from None


def refused(
    response: requests.Response, refusals: dict[int, str], hint: str
) -> Exception:
    """Make the error of an answer with another status than 200.

    Args:
        response: The answer.
        refusals: What to do about it, by status.
        hint: What may be wrong with the request.

    Returns:
        ``RetriableAPIError``, if the same request may succeed later; ``SuspectError``,
        if its cursor may be why it fails; else a ``TokenError`` or ``PageError`` with
        what to do.
    """
    status = response.status_code
    endpoint, said = endpoint_of(response.request), quoted_message(response)
    if status in {408, 429} or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        is_500 = status == HTTPStatus.INTERNAL_SERVER_ERROR
        is_suspect = is_500 and "cursor=" in (response.request.url or "")
        error = SuspectError if is_suspect else RetriableAPIError
        return error(f"{endpoint} was answered with {status}{said}.", response)
    kind = HTTPStatus.FOUND if response.is_redirect else status
    refusal = refusals.get(kind, "Homele refused {endpoint} ({said}).")
    kinds: dict[int, type[FatalAPIError]] = {401: TokenError, 403: ForbiddenError}
    if status in {400, 401, 403} and not body_of(response):
        # What is in between and does not let the token pass, is so for all requests.
        kinds, refusal = {401: OutageError}, REFUSALS[0]
    sentence = refusal.format(said=f"{status}{said}", endpoint=endpoint)
    sentence += hint if status in {400, 422} else ""
    return kinds.get(status, PageError)(sentence)


def status_of(failure: RetriableAPIError) -> int | None:
    """Return the status of a request that failed; None if there was no answer."""
    return getattr(failure.response, "status_code", None)


def given_up(tries: t.Any, answers: int, hint: str) -> t.NoReturn:
    """Raise the error of a request that was tried often enough.

    Args:
        tries: From python-backoff: the failure.
        answers: How many answers this run has had.
        hint: What may be wrong with the request, if the server itself fails.

    Raises:
        ServerError: If the server itself fails on it.
        OutageError: If it is not answered for another reason.
    """
    failure = tries["exception"]
    told = retry_after(failure.response) or 0
    later = f"in {told:.0f} seconds" if told > 0 else "later"
    check = (
        " If it has never worked, check the setting api_url, and the environment "
        "variables HTTPS_PROXY and REQUESTS_CA_BUNDLE."
    )
    is_500 = status_of(failure) == HTTPStatus.INTERNAL_SERVER_ERROR
    raise (ServerError if is_500 else OutageError)(
        f"{failure} Giving up: run the tap again {later}. The bookmark has not "
        f"moved, so nothing is lost.{hint if is_500 else ''}{'' if answers else check}"
    ) from None


def parse_answer(response: requests.Response) -> records.Record:
    """Parse the envelope of an answer, ``{"success": true, "data": …}``.

    Args:
        response: An answer with status 200.

    Returns:
        The body, which has ``data``.

    Raises:
        RetriableAPIError: If the body is not JSON: cut off, or a proxy's page.
        PageError: If it is JSON, but not the documented envelope.
    """
    answered = f"{endpoint_of(response.request)} was answered"
    try:
        body = records.decode(response.content)
    except (ValueError, RecursionError):
        is_html = "html" in response.headers.get("Content-Type", "")
        got = "an HTML page" if is_html else "no readable JSON"
        raise RetriableAPIError(f"{answered} with {got}.", response) from None
    if not isinstance(body, dict):
        raise PageError(f"{answered} with JSON that is not an object. {_OTHER}")
    if body.get("success") is not True:
        # Whatever else it holds, an empty page say, is not to be trusted.
        said = "success: false" if "success" in body else "no success"
        raise PageError(f"{answered} with {said}{quoted_message(response)}. {_OTHER}")
    if "data" not in body:
        raise PageError(f"{answered} without 'data'. {_OTHER}")
    rows = body["data"]
    if isinstance(rows, dict) and rows and all(map(str.isdecimal, rows)):
        # PHP writes a list with gaps in its keys as an object, and Laravel makes such
        # a list of a filtered collection.
        body["data"] = list(rows.values())
    return body


def quoted_message(response: requests.Response) -> str:
    """Quote the API's own ``message``, without the secrets of the request.

    No other part of a body is shown: it may hold customers.
    """
    message = body_of(response).get("message")
    if not isinstance(message, str) or not message:
        return ""
    # The token and the name that is searched for, in all spellings.
    token = str(response.request.headers["Authorization"]).split(" ")[-1]
    query = parse_qs(urlsplit(response.request.url or "").query)
    names = [name.strip() for name in query.get("filter[query]", [])]
    secrets = {token, token.split("|")[-1], *names}
    secrets |= {spell(name) for name in names for spell in (quote, quote_plus)}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        message = re.sub(re.escape(secret), "***", message, flags=re.IGNORECASE)
    return f", '{records.printable(message)}'"
