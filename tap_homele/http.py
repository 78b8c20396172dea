"""Send one request: bounds of an answer, the rate limit, when to try again.

Nothing here knows the endpoints of Homele.
"""

from __future__ import annotations

import email.utils
import functools
import re
import threading
import typing as t
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import MAXYEAR, MINYEAR, datetime, timezone
from decimal import Decimal
from http import HTTPStatus
from urllib.parse import urlsplit

import requests
from singer_sdk.exceptions import RetriableAPIError

from tap_homele.decoding import decode
from tap_homele.errors import PageError

if t.TYPE_CHECKING:
    from collections.abc import Generator, Iterator

P = t.ParamSpec("P")
T = t.TypeVar("T")

# How often a request is tried again that the API throttles.
MAX_RATE_LIMIT_WAITS = 10
# The longest that the API may ask for, in seconds.
MAX_TOLD_WAIT = 15 * 60
# The pauses, in seconds, after any other failure: about two minutes in all.
FAILURE_WAITS = (1, 2, 4, 8, 16, 32, 60)

# As good as never, in seconds.
_FOREVER = 10**9

# An answer must be complete after so many seconds, and have no more bytes. A page has a
# tenth of a megabyte.
ANSWER_SECONDS = 120
ANSWER_BYTES = 16 * 2**20


def server_time(response: requests.Response) -> datetime | None:
    """Read the server's clock from an answer.

    Returns:
        The ``Date`` header as a UTC time; None if it is missing or unreadable.
    """
    return _http_date(response.headers.get("Date"))


def retry_after(response: requests.Response | None) -> float | None:
    """Read how long the API asks a client to wait.

    The header may hold whole seconds (Laravel) or a date (a proxy); the body of a 429
    has the seconds too (the vendor's document).

    Args:
        response: An answer with status 429 or 503; None if there was no answer.

    Returns:
        Seconds, negative if the time is past; None if the answer does not say.
    """
    if response is None:
        return None
    header = response.headers.get("Retry-After", "").strip()
    if header.isdecimal():
        return min(float(header), _FOREVER)
    if moment := _http_date(header):
        now = server_time(response) or datetime.now(timezone.utc)
        return (moment - now).total_seconds()
    seconds = body_of(response).get("retry_after")
    if isinstance(seconds, int | Decimal):
        # An integer can be too large for a float.
        return float(max(-_FOREVER, min(seconds, _FOREVER)))
    return None


def waits() -> Generator[float, RetriableAPIError, None]:
    """Decide how long to wait before a request is tried again.

    Takes each failure of one request in turn and yields seconds. Ends when the request
    is not to be tried again.

    - 429: one second more than the API says, because Laravel with Redis says 0 for
      most of the last second of a window that it still blocks. If it says nothing,
      exponential. Up to ten times in a row, and no longer than a quarter of an hour.
    - 503 with Retry-After (Laravel's maintenance mode): what it says, up to a quarter
      of an hour in all.
    - Anything else: exponential, for about two minutes in all.
    """
    rate_limit_waits = 0
    maintenance = float(MAX_TOLD_WAIT)
    pauses = iter(FAILURE_WAITS)
    # python-backoff starts the generator with None, and then sends the failures.
    failure: RetriableAPIError = yield 0
    while True:
        response = failure.response
        status = response.status_code if response is not None else None
        told = retry_after(response)
        wait: float | None
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            wait = min(2**rate_limit_waits, FAILURE_WAITS[-1])
            if told is not None:
                wait = max(1.0, told + 1)
            rate_limit_waits += 1
            if rate_limit_waits > MAX_RATE_LIMIT_WAITS or wait > MAX_TOLD_WAIT:
                return
        elif status == HTTPStatus.SERVICE_UNAVAILABLE and told and told > 0:
            wait = min(max(1.0, told), maintenance)
            maintenance -= wait
            if not wait:
                return
        else:
            rate_limit_waits = 0
            wait = next(pauses, None)
            if wait is None:
                return
        failure = yield wait


def body_of(response: requests.Response) -> dict[str, t.Any]:
    """Read the body of an error; empty, if it is not a JSON object."""
    try:
        body = decode(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _http_date(header: str | None) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(header or "")
    except (ValueError, OverflowError):
        return None
    if not MINYEAR < moment.year < MAXYEAR:
        return None  # no room to add or subtract hours
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).astimezone(timezone.utc)


def in_background(
    function: t.Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    """Call a function in a daemon thread, which does not keep the tap from ending.

    Returns:
        A future of its result or its error.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


class TooLongError(requests.exceptions.RequestException):
    """An answer is longer than ``ANSWER_BYTES``."""


class Session(requests.Session):
    """Sends requests for all streams, bounds the answers, and counts.

    Attributes:
        requests: How many requests were sent.
        answers: How many were answered.
        requests_left: How many more the API takes in this minute; None where it does
            not say.
        seconds_waited: How long the tap waited before it tried again.
    """

    def __init__(self) -> None:
        """Start counting."""
        super().__init__()
        self.requests = 0
        self.answers = 0
        self.requests_left: int | None = None
        self.seconds_waited = 0.0

    def send(
        self, request: requests.PreparedRequest, **options: t.Any
    ) -> requests.Response:
        """Send a request, and receive the complete answer.

        Args:
            request: The request.
            **options: What ``requests.Session.send`` takes.

        Raises:
            RetriableAPIError: If there was no answer within the bounds.
            PageError: If there will be none, with what to do about it.
        """
        self.requests += 1
        # requests reads proxies and CA bundles from the environment only for a request
        # that it prepares itself, and the SDK prepares it.
        environment = self.merge_environment_settings(request.url, {}, None, None, None)
        if (request.url or "").startswith("http:"):
            # http is for this machine only: a proxy would see the token.
            environment["proxies"] = {}
        # The time-out of requests is for each part of an answer, not for all of it.
        receive = functools.partial(self._receive, request)
        answer = in_background(receive, **environment | options | {"stream": True})
        try:
            response = answer.result(ANSWER_SECONDS)
        except FutureTimeoutError:
            failure = unanswered(request, requests.exceptions.Timeout())
        except OSError as error:
            failure = unanswered(request, error)
        else:
            return self._counted(response)
        # Not in the except clause: a structured log shows the context of an exception.
        raise failure

    def _counted(self, response: requests.Response) -> requests.Response:
        self.answers += 1
        left = response.headers.get("X-RateLimit-Remaining", "")
        self.requests_left = int(left) if re.fullmatch(r"\d{1,9}", left) else None
        return response

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: redirects are not followed, so their target is not parsed."""

    def _receive(
        self, request: requests.PreparedRequest, **options: t.Any
    ) -> requests.Response:
        try:
            with super().send(request, **options) as response:
                raw: t.Any = response.raw
                raw.stream = functools.partial(_bounded, raw.stream)
                _ = response.content  # requests keeps it
                return response
        except ValueError as error:
            # http.client trusts a server to send numbers where it should.
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise requests.exceptions.ContentDecodingError from error


def _bounded(
    stream: t.Callable[..., Iterator[bytes]], *args: t.Any, **kwargs: t.Any
) -> Iterator[bytes]:
    """Yield the parts of a body, up to ``ANSWER_BYTES``."""
    size = 0
    for part in stream(*args, **kwargs):
        size += len(part)
        if size > ANSWER_BYTES:
            raise TooLongError
        yield part


# The sentences for failures that may pass, special ones before general ones. The texts
# of requests contain the query, and that may contain a person's name.
_FAILURES: dict[type[Exception], str] = {
    requests.exceptions.Timeout: "there was no whole answer in time",
    requests.exceptions.ProxyError: "the proxy did not let it through",
    requests.exceptions.SSLError: "there was no secure connection to {host}",
    requests.exceptions.ConnectionError: "the connection to {host} failed",
    requests.exceptions.ChunkedEncodingError: "the answer broke off",
    requests.exceptions.ContentDecodingError: "the answer was damaged on its way",
    requests.exceptions.InvalidHeader: "the answer was damaged on its way",
    TooLongError: "the answer did not end",
}


def endpoint_of(request: requests.PreparedRequest) -> str:
    """Name what was asked, without the query, which may hold a person's name."""
    return f"{request.method} {urlsplit(request.url or '').path}"


def unanswered(
    request: requests.PreparedRequest, error: OSError
) -> RetriableAPIError | PageError:
    """Make the error of a request that got no answer."""
    endpoint = endpoint_of(request)
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return PageError(
            f"{endpoint} was not sent: the certificate of the server cannot be "
            "verified. Check the setting api_url; if a proxy of your company has a "
            "certificate of its own, name the file of its CA in the environment "
            "variable REQUESTS_CA_BUNDLE."
        )
    for kind, sentence in _FAILURES.items():
        if isinstance(error, kind):
            said = sentence.format(host=urlsplit(request.url or "").hostname)
            if "Read timed out" in str(error):
                said = _FAILURES[requests.exceptions.Timeout]
            elif "resolve" in str(error):
                said += ": there is no such host"
            return RetriableAPIError(f"{endpoint} failed: {said}.")
    is_of_requests = isinstance(error, requests.exceptions.RequestException)
    reason = type(error).__name__ if is_of_requests else error
    return PageError(
        f"{endpoint} could not be sent: {reason}. Check the environment variables "
        "HTTPS_PROXY and REQUESTS_CA_BUNDLE."
    )
