"""The base class of all streams: address, headers, token, envelope, errors."""

from __future__ import annotations

import functools
import re
import typing as t
from http import HTTPStatus
from importlib.metadata import version
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import backoff
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.exceptions import RetriableAPIError
from singer_sdk.streams import RESTStream

from tap_homele.config import base_url
from tap_homele.decoding import decode
from tap_homele.errors import PageError, ServerError, TokenError
from tap_homele.http import body_of, endpoint_of, retry_after, waits

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    import requests
    from backoff.types import Details
    from singer_sdk.helpers.types import Context, RequestFunc

    from tap_homele.http import Session
    from tap_homele.tap import TapHomele

# The statuses below 500 after which the same request may succeed.
TRANSIENT = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT}

# A body: one JSON object.
Answer = dict[str, t.Any]


class HomeleStream(RESTStream[str | None]):
    """A stream of the Homele API."""

    # The token goes to the configured host and to no other; and a redirect to a login
    # page, which Laravel can send, must not be taken for an answer.
    allow_redirects = False

    def __init__(self, tap: TapHomele) -> None:
        """Make a stream that uses the session of the tap."""
        super().__init__(tap)
        self.session = tap.session
        # The SDK asks for a body several times: it is parsed once.
        self.read_answer = functools.lru_cache(maxsize=1)(read_answer)

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

    @property
    def timeout(self) -> int:
        """Seconds to wait for a connection, and for each part of an answer."""
        return 60

    def validate_response(self, response: requests.Response) -> None:
        """Check an answer; inside the retries, so that half a body is tried again.

        Raises:
            RetriableAPIError: If the same request may succeed later.
            PageError: If it will not, with what to do about it; ``TokenError``, if
                that is about the token.
        """
        status = response.status_code
        if status == HTTPStatus.OK:
            self.read_answer(response)
            return
        said = f"{status}{quoted_message(response)}"
        if status in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RetriableAPIError(
                f"{endpoint_of(response.request)} was answered with {said}.", response
            )
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise TokenError(_refusal(response, said))
        raise PageError(_refusal(response, said))

    def request_decorator(self, func: RequestFunc) -> RequestFunc:
        """Try a request again, as ``waits`` decides.

        Args:
            func: Sends a request and validates its answer.

        Returns:
            The same, with retries. It raises no ``RetriableAPIError``.
        """
        retrying = backoff.on_exception(
            waits,
            RetriableAPIError,
            on_backoff=self.backoff_handler,
            jitter=None,
            logger=None,
        )(func)

        def send(
            request: requests.PreparedRequest,
            context: Context | None,
        ) -> requests.Response:
            try:
                return retrying(request, context)
            except RetriableAPIError as error:
                raise _given_up(error, self.session) from None

        return send

    def backoff_handler(self, details: Details) -> None:
        """Log that the tap waits before it tries a request again.

        Args:
            details: From python-backoff: the failure, and the seconds to wait.
        """
        failure, seconds = details["exception"], details["wait"]
        self.session.seconds_waited += seconds
        response = getattr(failure, "response", None)
        status = getattr(response, "status_code", None)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.logger.info(
                "The API's rate limit is reached: waiting %.0f s.", seconds
            )
        else:
            self.logger.warning("%s Trying again in %.0f s.", failure, seconds)

    def parse_response(self, response: requests.Response) -> Iterator[t.Any]:
        """Yield each row of a page, as the API sent it.

        Raises:
            PageError: If ``data`` is not a list.
        """
        rows = self.read_answer(response)["data"]
        if not isinstance(rows, list):
            raise PageError(
                f"{endpoint_of(response.request)} was answered with 'data' that is "
                "not a list."
            )
        yield from rows


def read_answer(response: requests.Response) -> Answer:
    """Parse the envelope of an answer, ``{"success": true, "data": …}``.

    Args:
        response: An answer with status 200.

    Returns:
        The body, which has ``data``.

    Raises:
        RetriableAPIError: If the body is not JSON: cut off, or a proxy's page.
        PageError: If it is JSON, but not the documented envelope.
    """
    try:
        body = decode(response.content)
    except ValueError:
        is_html = "html" in response.headers.get("Content-Type", "")
        raise RetriableAPIError(
            f"{endpoint_of(response.request)} was answered with "
            f"{'an HTML page' if is_html else 'no readable JSON'}.",
            response,
        ) from None
    answered = f"{endpoint_of(response.request)} was answered"
    if not isinstance(body, dict):
        raise PageError(f"{answered} with JSON that is not an object.")
    if body.get("success") is not True:
        # Whatever else it holds, an empty page say, is not to be trusted.
        said = "success: false" if "success" in body else "no success"
        raise PageError(f"{answered} with {said}{quoted_message(response)}.")
    if "data" not in body:
        raise PageError(f"{answered} without 'data'.")
    rows = body["data"]
    if isinstance(rows, dict) and rows and all(map(str.isdecimal, rows)):
        # PHP writes a list with gaps in its keys as an object, and Laravel makes such
        # a list of a filtered collection.
        body["data"] = list(rows.values())
    return body


def _given_up(error: RetriableAPIError, session: Session) -> PageError:
    """Make the error of a request that was tried often enough."""
    told = retry_after(error.response)
    later = f"in {told:.0f} seconds" if told and told > 0 else "later"
    check = ""
    if not session.answers:
        check = (
            " If it has never worked, check the setting api_url, and the environment "
            "variables HTTPS_PROXY and REQUESTS_CA_BUNDLE."
        )
    status = error.response.status_code if error.response is not None else None
    kind = ServerError if status == HTTPStatus.INTERNAL_SERVER_ERROR else PageError
    return kind(
        f"{error} Giving up: run the tap again {later}. The bookmark has not moved, so "
        f"nothing is lost.{check}"
    )


def _refusal(response: requests.Response, said: str) -> str:
    """Say what to do about an answer that will not change."""
    endpoint = endpoint_of(response.request)
    sentences: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: (
            f"Homele does not know the token ({said}, {endpoint}): it is wrong, "
            "expired or revoked. Make a new one in Homele under Settings > API "
            "Integration and set it as auth_token."
        ),
        HTTPStatus.FORBIDDEN: (
            f"The token is not allowed to do this ({said}, {endpoint}). Give it the "
            "permission customer:read in Homele under Settings > API Integration."
        ),
        HTTPStatus.NOT_FOUND: (
            f"There is no Homele API at this address ({said}, {endpoint}). Check the "
            "setting api_url; if it has worked before, run the tap again later."
        ),
    }
    if response.is_redirect:
        return (
            f"{endpoint} was answered with a redirect ({said}), which is not followed, "
            "since the token is for this address only. Check the setting api_url."
        )
    default = f"Homele refused {endpoint} ({said})."
    return sentences.get(response.status_code, default)


def quoted_message(response: requests.Response) -> str:
    """Quote the API's own ``message``, without the secrets of the request.

    No other part of a body is shown: it may hold customers.
    """
    message = body_of(response).get("message")
    if not isinstance(message, str) or not message:
        return ""
    if secrets := _secrets(response.request):
        pattern = re.compile("|".join(map(re.escape, secrets)), re.IGNORECASE)
        message = pattern.sub("***", message)
    return f", '{printable(message)}'"


def _secrets(request: requests.PreparedRequest) -> list[str]:
    """List the token and the name searched for in all spellings, longest first."""
    token = str(request.headers["Authorization"]).split(" ")[-1]
    names = parse_qs(urlsplit(request.url or "").query).get("filter[query]", [])
    spelled = {token, token.split("|")[-1]}
    for name in (*names, *map(str.strip, names)):
        spelled |= {name, quote(name), quote_plus(name)}
    return sorted(filter(None, spelled), key=len, reverse=True)


def printable(text: str) -> str:
    """Make a text of the API fit a line of the log: 200 characters, no control ones."""
    return "".join(char if char.isprintable() else " " for char in text[:200])
