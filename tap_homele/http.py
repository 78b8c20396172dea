"""Send one request: bounds of an answer, the rate limit, when to try again.

Nothing here knows the endpoints of Homele.
"""

import email.utils
import functools
import logging
import re
import time
import typing as t
from collections.abc import Generator, Iterator
from datetime import datetime, timezone
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

import requests
from requests import PreparedRequest, Response, exceptions
from singer_sdk.exceptions import RetriableAPIError

from tap_homele.errors import PageError
from tap_homele.records import decode, utc_now

logger = logging.getLogger(__name__)

# How often, and for how long in all, a request waits as the API asks it to.
MAX_TOLD_WAITS = 10
MAX_TOLD_SECONDS = 15 * 60
# The pauses, in seconds, after any other failure: about two minutes in all.
FAILURE_WAITS = (1, 2, 4, 8, 16, 32, 60)
# The same where the address may be wrong: about ten seconds.
FIRST_WAITS = (1, 2, 3, 4)
# The same where this one request may be at fault, and another can tell.
BRIEF_WAITS = (1, 2)

# An answer must be complete after so many seconds, and have no more bytes. A page has a
# tenth of a megabyte. It is read in parts of so many bytes.
ANSWER_SECONDS = 120
ANSWER_BYTES = 16 * 2**20
PART_BYTES = 2**16

# How often the log says how far a run is, in seconds.
REPORT_EVERY = 60

# A limit that is lower than this is not that of a minute: with two limits, Laravel's
# headers describe the last one only, and that may be one of a second.
LIMIT_OF_A_MINUTE = 30


def retry_after(response: Response | None) -> float | None:
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
    told = response.headers.get("Retry-After") or body_of(response).get("retry_after")
    try:
        return float(str(told))
    except ValueError:
        moment = http_date(str(told))
    now = http_date(response.headers.get("Date")) or utc_now()
    return (moment - now).total_seconds() if moment else None


def waits() -> Generator[float, RetriableAPIError, None]:
    """Decide how long to wait before a request is tried again.

    Takes each failure of one request in turn and yields seconds. Ends when the request
    is not to be tried again.

    - 429, or 503 with Retry-After (Laravel's maintenance mode): one second more than
      the API says, because Laravel with Redis says 0 for most of the last second of a
      window that it still blocks. If a 429 says nothing, exponential. Up to ten times,
      and a quarter of an hour in all.
    - Nobody at the address, before any answer: for about ten seconds in all.
    - A request that may be at fault itself: for three seconds in all.
    - Anything else: exponential, for about two minutes in all.
    """
    told_waits, told_seconds = 0, 0.0
    pauses = {
        UnreachableError: iter(FIRST_WAITS),
        SuspectError: iter(BRIEF_WAITS),
        RetriableAPIError: iter(FAILURE_WAITS),
    }
    # python-backoff starts the generator with None, and then sends the failures.
    failure: RetriableAPIError = yield 0
    while True:
        told = retry_after(failure.response)
        status = failure.response.status_code if failure.response is not None else None
        is_down = status == HTTPStatus.SERVICE_UNAVAILABLE and (told or 0) > 0
        if is_down or status == HTTPStatus.TOO_MANY_REQUESTS:
            wait = min(2**told_waits, FAILURE_WAITS[-1])
            wait = wait if told is None else max(1.0, told + 1)
            told_waits += 1
            told_seconds += wait
            if told_waits > MAX_TOLD_WAITS or told_seconds > MAX_TOLD_SECONDS:
                return
        else:
            wait = next(pauses[type(failure)], 0)
        if not wait:
            return
        failure = yield wait


def body_of(response: Response) -> dict[str, t.Any]:
    """Read the body of an error; empty, if it is not a JSON object."""
    try:
        body = decode(response.content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def http_date(header: str | None) -> datetime | None:
    """Read a header like ``Date``, UTC; None if it is missing or unreadable."""
    try:
        moment = email.utils.parsedate_to_datetime(header or "")
        moment = moment.replace(tzinfo=moment.tzinfo or timezone.utc)
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


class UnreachableError(RetriableAPIError):
    """There is nobody at the address, and this run has had no answer yet."""


class SuspectError(RetriableAPIError):
    """The server fails on a request that may itself be the reason."""


class TooLongError(exceptions.RequestException):
    """An answer is longer than ``ANSWER_BYTES``."""


class Session(requests.Session):
    """Sends requests for all streams, bounds the answers, and counts.

    Attributes:
        requests: How many requests were sent.
        answers: How many were answered.
        requests_left: How many more the API takes in this minute; None where it does
            not say.
        reported: When the log last said how far the run is, by the monotonic clock.
    """

    def __init__(self) -> None:
        """Start counting."""
        super().__init__()
        # An API with a token needs no cookies, and many make a request too long.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.requests = self.answers = 0
        self.requests_left: int | None = None
        self.reported = time.monotonic()
        # Proxies and CA bundles of the environment. requests reads them only for a
        # request that it prepares itself, and the SDK prepares it.
        self.environment: t.Any = None

    def send(self, request: PreparedRequest, **options: t.Any) -> Response:
        """Send a request, and receive the complete answer.

        Args:
            request: The request.
            **options: What ``requests.Session.send`` takes.

        Raises:
            RetriableAPIError: If there was no answer within the bounds.
            PageError: If there will be none, with what to do about it.
        """
        self.requests += 1
        if not self.environment:
            self.environment = self.merge_environment_settings(
                request.url, {}, None, None, None
            )
            if (request.url or "").startswith("http:"):
                # http is for this machine only: a proxy would see the token.
                self.environment["proxies"] = {}
        options = {**self.environment, **options, "stream": True}
        try:
            response = super().send(request, **options)
            with response:
                raw: t.Any = response.raw
                raw.stream = functools.partial(_parts, raw)
                _ = response.content  # requests keeps it
        except OSError as error:
            failure = unanswered(request, error, self.answers)
        except ValueError:
            # http.client trusts a server to send numbers where it should.
            damaged = exceptions.ContentDecodingError()
            failure = unanswered(request, damaged, self.answers)
        else:
            self.answers += 1
            self.requests_left = _requests_left(response)
            return response
        # Not in the except clause: a structured log shows the context of an exception.
        raise failure

    def report(self, name: str, progress: str, *, waits_for: float = 0) -> None:
        """Log how far a run is, each minute, or now if it waits.

        Args:
            name: Of the stream.
            progress: How far it is.
            waits_for: So many seconds, for the rate limit.
        """
        if not waits_for and time.monotonic() - self.reported <= REPORT_EVERY:
            return
        wait = f"; waiting {waits_for:.0f} s for the rate limit" if waits_for else ""
        logger.info(
            "%s: %s, %s requests%s.", name, progress, f"{self.requests:,}", wait
        )
        # The minute begins after the wait.
        self.reported = time.monotonic() + waits_for

    def get_redirect_target(self, resp: Response) -> None:
        """Return None: redirects are not followed, so their target is not parsed."""


def _parts(raw: t.Any, *_: t.Any, **__: t.Any) -> Iterator[bytes]:
    """Yield the parts of a body as they come, within the bounds of an answer.

    The time-out of requests is for each part, not for all of them.
    """
    size, until = 0, time.monotonic() + ANSWER_SECONDS
    while part := raw.read1(PART_BYTES, decode_content=True):
        size += len(part)
        if size > ANSWER_BYTES:
            raise TooLongError
        if time.monotonic() > until:
            raise exceptions.Timeout
        yield part


def _requests_left(response: Response) -> int | None:
    """Read how many requests the API still takes in this minute.

    Returns:
        The number; None if it does not say, or speaks of another span.
    """
    names = ("X-RateLimit-Limit", "X-RateLimit-Remaining")
    told = [response.headers.get(name, "")[:9] for name in names]
    if not all(map(str.isdecimal, told)):
        return None
    limit, left = map(int, told)
    return left if limit >= LIMIT_OF_A_MINUTE else None


# The sentences for failures that may pass, special ones before general ones. The texts
# of requests contain the query, and that may contain a person's name.
_FAILURES: dict[type[Exception], str] = {
    exceptions.Timeout: "there was no whole answer in time",
    exceptions.ProxyError: "the proxy did not let it through",
    exceptions.SSLError: "there was no secure connection to {host}",
    exceptions.ConnectionError: "the connection to {host} failed",
    exceptions.ChunkedEncodingError: "the answer broke off",
    exceptions.ContentDecodingError: "the answer was damaged on its way",
    exceptions.InvalidHeader: "the answer was damaged on its way",
}


# Why a connection failed: the error of the operating system, or its time-out.
_REASON = re.compile(r"\[Errno -?\d+\] ([\w ]+)|\(connect timeout")

# What a proxy has answered; and what will not change.
_PROXY_STATUS = re.compile(r"Tunnel connection failed: (\d{3})")
_PROXY_REFUSALS = ("403", "407")

# OpenSSL's reason, and what can help against it, special ones before general ones.
_VERIFICATION = re.compile(r"certificate verify failed: ([^(]+)")
_NEEDS_A_CA = (
    "If a proxy of your company has a certificate of its own, add its CA to the file "
    "that REQUESTS_CA_BUNDLE names."
)
_CERTIFICATE_ADVICE = {
    "expired": "Check the clock of this machine; else the server needs a new one.",
    "not yet valid": "Check the clock of this machine.",
    "mismatch": "Check the setting api_url.",
    "issuer": _NEEDS_A_CA,
    "signed": _NEEDS_A_CA,
    "": "Whoever has made it has to make one that OpenSSL accepts.",
}


def endpoint_of(request: PreparedRequest) -> str:
    """Name what was asked, without the query, which may hold a person's name."""
    return f"{request.method} {urlsplit(request.url or '').path}"


def unanswered(request: PreparedRequest, error: Exception, answers: int) -> Exception:
    """Make the error of a request that got no answer.

    Args:
        request: The request.
        error: What went wrong.
        answers: How many answers this run has had.
    """
    endpoint, said = endpoint_of(request), str(error)
    if isinstance(error, TooLongError):
        return PageError(
            f"{endpoint} was answered with more than {ANSWER_BYTES / 2**20:.1f} MiB, "
            "the bound of the tap. Set page_size to a smaller number, such as 10."
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        found = _VERIFICATION.search(said)
        why = found[1].rstrip(" .") if found else "the verification failed"
        advice = next(do for part, do in _CERTIFICATE_ADVICE.items() if part in why)
        return PageError(
            f"{endpoint} was not sent: the certificate of the server cannot be "
            f"verified: {why}. {advice}"
        )
    proxy = _PROXY_STATUS.search(said)
    if proxy and proxy[1] in _PROXY_REFUSALS:
        return PageError(
            f"{endpoint} was not sent: the proxy refused it ({proxy[1]}). Check the "
            "environment variable HTTPS_PROXY, which can hold a user and a password, "
            "or ask who runs the proxy to let this machine through."
        )
    kind = next((kind for kind in _FAILURES if isinstance(error, kind)), None)
    if kind is None:
        is_of_requests = isinstance(error, exceptions.RequestException)
        reason = type(error).__name__ if is_of_requests else error
        return PageError(
            f"{endpoint} could not be sent: {reason}. Check the environment variables "
            "HTTPS_PROXY, ALL_PROXY (a SOCKS proxy needs the package PySocks) and "
            "REQUESTS_CA_BUNDLE."
        )
    what = _FAILURES[exceptions.Timeout if "Read timed out" in said else kind]
    host = urlsplit(request.url or "").netloc
    # A query cannot match: its brackets are escaped.
    cause = _REASON.search(said)
    why = f": {cause[1] or f'nobody answers at {host}'}" if cause else ""
    why = f" ({proxy[1]})" if proxy else why
    failure = UnreachableError if cause and not answers else RetriableAPIError
    return failure(f"{endpoint} failed: {what.format(host=host)}{why}.")
