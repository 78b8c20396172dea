"""One request to the Homele API and its answer."""

from __future__ import annotations

import email.utils
import functools
import json
import re
import threading
import time
import typing as t
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import MAXYEAR, MINYEAR, datetime, timezone
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from importlib.metadata import version
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import backoff
import msgspec
import requests
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError
from singer_sdk.streams import RESTStream

from tap_homele import records

if t.TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from backoff.types import Details
    from singer_sdk.helpers.types import Context, RequestFunc

P = t.ParamSpec("P")
T = t.TypeVar("T")

API_PATH = "/api/v2/crm"

# A request that the API throttles is tried again as often as this.
MAX_RATE_LIMIT_WAITS = 10
# The longest that the API may ask for, in seconds.
MAX_TOLD_WAIT = 15 * 60
# The pauses after an answer that should not be: about two minutes in all.
FAILURE_WAITS = (1, 2, 4, 8, 16, 32, 60)

# As good as never, in seconds.
_FOREVER = 10**9

# The statuses below 500 after which the same request may succeed.
TRANSIENT = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT}

# An answer is here as a whole so many seconds after it was asked for, and so many bytes
# long at most. A page has a tenth of a megabyte.
ANSWER_SECONDS = 120
ANSWER_BYTES = 16 * 2**20

# What a body is when it was read: one JSON object.
Answer = dict[str, t.Any]

# JSON numbers have no bounds, and databases do: what is beyond 10^1000, or is written
# with more characters than these, becomes text.
MAX_EXPONENT = 1000
MAX_LENGTH = 10_000


def _number(text: str) -> Decimal | str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    too_long = len(text) > MAX_LENGTH or abs(number.adjusted()) > MAX_EXPONENT
    return text if too_long else number


def _whole_number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # Python reads 4,300 digits
        return text


def _no_number(text: str) -> t.NoReturn:
    raise ValueError(f"{text} is not JSON")


_decoder = msgspec.json.Decoder(float_hook=_number)


def decode(body: bytes) -> t.Any:
    """Parse JSON, with every digit of its numbers and every character of its texts.

    Args:
        body: The body of an answer.

    Returns:
        What it holds, as ``records.storable`` spells it; numbers with a fraction or an
        exponent as ``Decimal``, and as text what is too long to be a number.

    Raises:
        ValueError: If it is not JSON, or nested too deeply to be read.
    """
    try:
        return _decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decode(body: bytes) -> t.Any:
    try:
        value = _decoder.decode(body)
    except msgspec.DecodeError:
        # msgspec does not take all that JSON can spell: half a pair of surrogates,
        # integers of thousands of digits.
        value = json.loads(
            body,
            parse_float=_number,
            parse_int=_whole_number,
            parse_constant=_no_number,
        )
        return records.storable(value)
    return records.storable(value) if b"\\u0000" in body else value


def base_url(api_url: str) -> str:
    """Complete the address of the API.

    Args:
        api_url: What the user set: the address of the API, or a tenant's bare domain.

    Returns:
        The address without a slash at its end. A bare domain is completed with
        ``/api/v2/crm`` (the vendor's documents: every tenant can have its own).

    Raises:
        ValueError: If it is not an address that a token may be sent to.
    """
    # None of these sentences holds a part of it: a password can be anywhere.
    if "@" in api_url:
        raise ValueError("it must not hold a user name or a password")
    try:
        parts = urlsplit(api_url.strip())
        _ = parts.port, (parts.hostname or "").encode("idna")
        if parts.hostname and parts.scheme in {"http", "https"}:
            requests.Request("GET", api_url.strip()).prepare()
    except ValueError:
        raise ValueError("it cannot be an address") from None
    if parts.query or parts.fragment or len(api_url.split()) != 1:
        raise ValueError("it must end with its path, without '?', '#' or spaces")
    loopback = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and loopback)
    ):
        raise ValueError(
            f"it must begin with https://, as in https://crm.homele.com{API_PATH}"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or API_PATH}"


def server_time(response: requests.Response) -> datetime | None:
    """Read the server's clock from an answer.

    Args:
        response: Any answer.

    Returns:
        The ``Date`` header as a UTC time, or None where it is missing or unreadable.
    """
    return _http_date(response.headers.get("Date"))


def retry_after(response: requests.Response | None) -> float | None:
    """Read how long the API asks a client to stay away.

    The header may hold whole seconds (Laravel) or a date (a proxy); the body of a 429
    has the seconds too (the vendor's document).

    Args:
        response: An answer with status 429 or 503; None, where there was no answer.

    Returns:
        Seconds, negative where the moment is past, or None where nothing is said.
    """
    if response is None:
        return None
    header = response.headers.get("Retry-After", "").strip()
    if header.isdecimal():
        return min(float(header), _FOREVER)
    if moment := _http_date(header):
        now = server_time(response) or datetime.now(timezone.utc)
        return (moment - now).total_seconds()
    seconds = _body(response).get("retry_after")
    if isinstance(seconds, int | Decimal):
        # An integer can be too large for a float.
        return float(max(-_FOREVER, min(seconds, _FOREVER)))
    return None


def waits() -> Generator[float, RetriableAPIError, None]:
    """Decide how long to wait before one request is tried again.

    Takes each failure of that request in turn and gives seconds; ends when it should
    not be tried any more.

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


def in_background(
    function: t.Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Future[T]:
    """Call a function in a thread that does not keep the tap from ending.

    Args:
        function: The function.
        *args: Its arguments.
        **kwargs: Its named arguments.

    Returns:
        What it will return or raise.
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
    """An answer is longer than any answer should be."""


class Session(requests.Session):
    """Sends requests as their users expect, and bounds what comes back."""

    def send(
        self, request: requests.PreparedRequest, **options: t.Any
    ) -> requests.Response:
        """Send a request, and receive the whole of the answer.

        Args:
            request: The request.
            **options: What ``requests.Session.send`` takes.

        Returns:
            The answer, with its body.

        Raises:
            OSError: What requests raises, and ``Timeout`` where the answer is not whole
                after ``ANSWER_SECONDS``, or has more than ``ANSWER_BYTES``.
        """
        # requests applies proxies and CA bundles of the environment to what it prepares
        # and sends in one, but the SDK prepares first.
        environment = self.merge_environment_settings(request.url, {}, None, None, None)
        if (request.url or "").startswith("http:"):
            # It stays on this machine; a proxy would get to see the token.
            environment["proxies"] = {}
        # requests bounds only the wait for each part of an answer.
        receive = functools.partial(self._receive, request)
        answer = in_background(receive, **environment | options | {"stream": True})
        try:
            return answer.result(ANSWER_SECONDS)
        except FutureTimeoutError:
            raise requests.exceptions.Timeout from None

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Give none: where to is not looked at, and the body is not read for it."""

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
            # http.client takes what a server sends for numbers and text.
            if isinstance(error, requests.exceptions.RequestException):
                raise
            raise requests.exceptions.ContentDecodingError from error


def _bounded(
    stream: t.Callable[..., Iterator[bytes]], *args: t.Any, **kwargs: t.Any
) -> Iterator[bytes]:
    """Give the parts of a body, which requests puts together."""
    size = 0
    for part in stream(*args, **kwargs):
        size += len(part)
        if size > ANSWER_BYTES:
            raise TooLongError
        yield part


# What is said of a failure that may pass, the special before the general. The texts of
# requests hold the query, and that may hold a person's name.
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


def _failure(
    request: requests.PreparedRequest, error: OSError
) -> RetriableAPIError | FatalAPIError:
    """Say what happened to a request that got no answer."""
    endpoint = f"{request.method} {urlsplit(request.url or '').path}"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return FatalAPIError(
            f"{endpoint} was not sent: the certificate of the server cannot be "
            "verified. Check the setting api_url; if a proxy of your company has a "
            "certificate of its own, name the file of its CA in the environment "
            "variable REQUESTS_CA_BUNDLE."
        )
    for kind, sentence in _FAILURES.items():
        if isinstance(error, kind):
            host = urlsplit(request.url or "").hostname
            said = sentence.format(host=host)
            if "Read timed out" in str(error):
                said = _FAILURES[requests.exceptions.Timeout]
            elif "resolve" in str(error):
                said += ": there is no such host"
            return RetriableAPIError(f"{endpoint} failed: {said}.")
    is_of_requests = isinstance(error, requests.exceptions.RequestException)
    reason = type(error).__name__ if is_of_requests else error
    return FatalAPIError(
        f"{endpoint} could not be sent: {reason}. Check the environment variables "
        "HTTPS_PROXY and REQUESTS_CA_BUNDLE."
    )


class TokenError(FatalAPIError):
    """The API does not accept the token, or not for this."""


class ServerError(FatalAPIError):
    """The API answers a request with 500, however often it is tried."""


class HomeleStream(RESTStream[str | None]):
    """A stream of the Homele API."""

    # The token goes to the configured host and to no other; and a redirect to a login
    # page, which Laravel can send, must not be taken for an answer.
    allow_redirects = False

    # How many requests were sent, how often and how long it was waited for another, and
    # how often the log warns.
    requests_sent = 0
    warnings = 0
    waits = 0
    seconds_waited = 0.0
    _waiting_until = 0.0
    _waiting: int | None = None
    # Whether anybody has answered at all.
    _answered = False

    # The answer that was read last, and the response that it was read from.
    _answer: tuple[requests.Response, Answer] | None = None

    @functools.cached_property
    def url_base(self) -> str:
        """The address of the API, without a slash at its end."""
        return base_url(self.config["api_url"])

    @property
    def http_headers(self) -> dict[str, str]:
        """The headers of every request.

        Laravel answers errors in JSON only to a client that accepts JSON first.
        """
        return {"Accept": "application/json"}

    @functools.cached_property
    def user_agent(self) -> str:
        """The setting ``user_agent``, or this tap and its version."""
        return self.config.get("user_agent") or f"tap-homele/{version('tap-homele')}"

    @functools.cached_property
    def authenticator(self) -> BearerTokenAuthenticator:
        """Sends the token as ``Authorization: Bearer``."""
        return BearerTokenAuthenticator(token=self.config["auth_token"])

    @functools.cached_property
    def requests_session(self) -> Session:
        """Keeps the connection to the API."""
        return Session()

    @property
    def timeout(self) -> int:
        """Seconds to wait for a connection, and for each part of an answer."""
        return 60

    def warn(self, sentence: str, *values: object) -> None:
        """Log a warning, and count it.

        Args:
            sentence: What is wrong, with places for the values.
            values: As for the logger.
        """
        self.warnings += 1
        self.logger.warning(sentence, *values)

    def read_answer(self, response: requests.Response) -> Answer:
        """Give the envelope of an answer, ``{"success": true, "data": …}``.

        The body of a response is parsed once, however often this is asked for it.

        Args:
            response: An answer with status 200.

        Returns:
            The parsed body, which has ``data``.

        Raises:
            RetriableAPIError: If the body is not JSON: cut off, or a proxy's page.
            FatalAPIError: If it is JSON, but not the documented envelope.
        """
        # Another connection may put its own there meanwhile.
        answer = self._answer
        if answer is None or answer[0] is not response:
            self._answer = answer = (response, self._parse(response))
        return answer[1]

    def _parse(self, response: requests.Response) -> Answer:
        try:
            body = decode(response.content)
        except ValueError:
            is_html = "html" in response.headers.get("Content-Type", "")
            raise RetriableAPIError(
                f"{_endpoint(response)} was answered with "
                f"{'an HTML page' if is_html else 'no readable JSON'}.",
                response,
            ) from None
        if not isinstance(body, dict):
            raise FatalAPIError(
                f"{_endpoint(response)} was answered with JSON that is not an object."
            )
        if body.get("success") is not True:
            # Whatever else it holds, an empty page say, is not to be trusted.
            said = "success: false" if "success" in body else "no success"
            raise FatalAPIError(
                f"{_endpoint(response)} was answered with {said}{_message(response)}."
            )
        if "data" not in body:
            raise FatalAPIError(f"{_endpoint(response)} was answered without 'data'.")
        return body

    def validate_response(self, response: requests.Response) -> None:
        """Check an answer, inside the retries.

        Args:
            response: Any answer.

        Raises:
            RetriableAPIError: If the same request may succeed later.
            FatalAPIError: If it will not, with what to do about it; ``TokenError``, if
                that is about the token.
        """
        self._answered = True
        status = response.status_code
        if status == HTTPStatus.OK:
            self.read_answer(response)
            return
        said = f"{status}{_message(response)}"
        if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RetriableAPIError(
                f"{_endpoint(response)} was answered with {said}.", response
            )
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise TokenError(self.refusal(response, said))
        raise FatalAPIError(self.refusal(response, said))

    def refusal(self, response: requests.Response, said: str) -> str:
        """Say what to do about an answer that will not change.

        Args:
            response: The answer.
            said: Its status and message.
        """
        endpoint = _endpoint(response)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            return (
                f"Homele does not know the token ({said}, {endpoint}): it is wrong, "
                "expired or revoked. Make a new one in Homele under Settings > API "
                "Integration and set it as auth_token."
            )
        if response.status_code == HTTPStatus.FORBIDDEN:
            return (
                f"The token is not allowed to do this ({said}, {endpoint}). Give it "
                "the permission customer:read in Homele under Settings > API "
                "Integration."
            )
        if response.status_code == HTTPStatus.NOT_FOUND:
            return (
                f"There is no Homele API at this address ({said}, {endpoint}). Check "
                "the setting api_url; if it has worked before, run the tap again later."
            )
        if response.is_redirect:
            return (
                f"{endpoint} was answered with a redirect ({said}), which is not "
                "followed, since the token is for this address only. Check the "
                "setting api_url."
            )
        return f"Homele refused {endpoint} ({said})."

    def request_decorator(self, func: RequestFunc) -> RequestFunc:
        """Try a request again, as ``waits`` decides.

        Args:
            func: Sends a request and validates its answer.

        Returns:
            The same, with retries. It raises only ``FatalAPIError``.
        """

        def attempt(
            request: requests.PreparedRequest,
            context: Context | None,
        ) -> requests.Response:
            self.requests_sent += 1
            try:
                return func(request, context)
            except OSError as error:
                failure = _failure(request, error)
            # Not in the except clause: the SDK's structured log tells the text of an
            # exception's context, also after "from None".
            raise failure

        retrying = backoff.on_exception(
            waits,
            RetriableAPIError,
            on_backoff=self.backoff_handler,
            jitter=None,
            logger=None,
        )(attempt)

        def send(
            request: requests.PreparedRequest,
            context: Context | None,
        ) -> requests.Response:
            try:
                return retrying(request, context)
            except RetriableAPIError as error:
                told = retry_after(error.response)
                later = f"in {told:.0f} seconds" if told and told > 0 else "later"
                response = error.response
                check = ""
                if response is None and not self._answered:
                    check = (
                        " If it has never worked, check the setting api_url, and the "
                        "environment variables HTTPS_PROXY and REQUESTS_CA_BUNDLE."
                    )
                failed = response is not None and (
                    response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
                )
                raise (ServerError if failed else FatalAPIError)(
                    f"{error} Giving up: run the tap again {later}. The bookmark has "
                    f"not moved, so nothing is lost.{check}"
                ) from None

        return send

    def backoff_handler(self, details: Details) -> None:
        """Log that a request waits before it is tried again.

        Args:
            details: From python-backoff: the failure, and the seconds to wait.
        """
        failure = details["exception"]
        until, thread = time.monotonic() + details["wait"], threading.get_ident()
        if until < self._waiting_until + 1 and thread != self._waiting:
            return  # another connection has met the same limit, and waits as well
        self._waiting_until, self._waiting = until, thread
        self.waits += 1
        self.seconds_waited += details["wait"]
        seconds = f"{details['wait']:.0f} s"
        response = getattr(failure, "response", None)
        if (
            response is not None
            and response.status_code == HTTPStatus.TOO_MANY_REQUESTS
        ):
            self.logger.info("The API's rate limit is reached: waiting %s.", seconds)
        else:
            self.warn("%s Trying again in %s.", failure, seconds)

    def parse_response(self, response: requests.Response) -> Iterator[dict[str, t.Any]]:
        """Give the rows of a page.

        Args:
            response: An answer that was validated.

        Yields:
            Each row as the API sent it.

        Raises:
            FatalAPIError: If ``data`` is not a list.
        """
        rows = self.read_answer(response)["data"]
        if not isinstance(rows, list):
            raise FatalAPIError(
                f"{_endpoint(response)} was answered with 'data' that is not a list."
            )
        yield from rows


def is_gone(response: requests.Response) -> bool:
    """Tell whether the API itself says that there is no such customer.

    Args:
        response: Any answer. A proxy's 404 is a page in HTML, and something else.
    """
    is_missing = response.status_code == HTTPStatus.NOT_FOUND
    return is_missing and _body(response).get("success") is False


def _http_date(header: str | None) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(header or "")
    except (ValueError, OverflowError):
        return None
    if not MINYEAR < moment.year < MAXYEAR:
        return None  # one cannot reckon with it
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).astimezone(timezone.utc)


def _endpoint(response: requests.Response) -> str:
    """Name what was asked, without the query, which may hold a person's name."""
    return f"{response.request.method} {urlsplit(response.url).path}"


def _body(response: requests.Response) -> Answer:
    """Read the body of an error, which may be anything."""
    try:
        body = decode(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _message(response: requests.Response) -> str:
    """Give the API's own ``message``, the one part of a body that is shown.

    What the request itself held, and is not to be shown, is taken out.
    """
    message = _body(response).get("message")
    if not isinstance(message, str) or not message:
        return ""
    if secrets := _secrets(response.request):
        pattern = re.compile("|".join(map(re.escape, secrets)), re.IGNORECASE)
        message = pattern.sub("***", message)
    return f", '{printable(message)}'"


def _secrets(request: requests.PreparedRequest) -> list[str]:
    """Give what a request held and nobody is to see, the longest first."""
    token = str(request.headers["Authorization"]).split(" ")[-1]
    names = parse_qs(urlsplit(request.url or "").query).get("filter[query]", [])
    spelled = {token, token.split("|")[-1]}
    for name in (*names, *map(str.strip, names)):
        spelled |= {name, quote(name), quote_plus(name)}
    return sorted(filter(None, spelled), key=len, reverse=True)


def printable(text: str) -> str:
    """Make of a text of the API what can stand in a line of the log.

    Args:
        text: Any text.

    Returns:
        Its first 200 characters, with spaces for all that would move the cursor.
    """
    return "".join(char if char.isprintable() else " " for char in text[:200])
