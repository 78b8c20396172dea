"""One request and its answer: headers, waiting, trying again, giving up."""

from __future__ import annotations

import json
import logging
import math
import time
from email.utils import formatdate
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
import requests
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError

from tap_homele.client import FAILURE_WAITS, HomeleStream, retry_after, waits
from tap_homele.tap import TapHomele
from tests.sandbox import Sandbox, faults
from tests.sandbox.server import Token
from tests.singer import Output, parse, run, sync

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flask import Response

    from tests.conftest import Serve

    MakeFault = Callable[[Sandbox], Callable[[], Response]]

CUSTOMERS = 350  # four pages


@pytest.fixture
def sandbox(serve: Serve) -> Sandbox:
    return serve(CUSTOMERS)


def is_complete(output: Output, sandbox: Sandbox) -> bool:
    return sorted(output.ids) == sorted(sandbox.customers)


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Give what the stream itself logged, with the levels."""
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "tap-homele.customers"
        and not record.getMessage().startswith(("Beginning", "Starting"))
    ]


def test_headers(sandbox: Sandbox) -> None:
    sync(sandbox)

    for request in sandbox.requests:
        assert request.headers["Accept"] == "application/json"
        assert request.headers["Authorization"] == "Bearer 1|sandbox"
        assert request.headers["User-Agent"] == f"tap-homele/{version('tap-homele')}"


def test_user_agent_setting(sandbox: Sandbox) -> None:
    sync(sandbox, user_agent="acme-warehouse/2")

    assert {r.headers["User-Agent"] for r in sandbox.requests} == {"acme-warehouse/2"}


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(faults.too_many("41"), 42, id="header"),
        # Laravel with Redis says 0 for most of the last second of a window.
        pytest.param(faults.too_many("0"), 1, id="header 0"),
        pytest.param(faults.too_many("41", in_body=7), 42, id="header and body"),
        pytest.param(faults.too_many(in_body=7), 8, id="body"),
        pytest.param(faults.too_many(), 1, id="nothing"),
        pytest.param(faults.too_many("soon"), 1, id="unreadable"),
    ],
)
def test_429_waits_one_second_more_than_it_says(
    sandbox: Sandbox,
    waited: list[float],
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[], Response],
    seconds: float,
) -> None:
    caplog.set_level(logging.INFO)
    sandbox.fail(fault, at=3)

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [seconds]
    assert messages(caplog) == [
        ("INFO", f"The API's rate limit is reached: waiting {seconds} seconds.")
    ]
    # The same page again, and no other.
    assert sandbox.urls[2] == sandbox.urls[3]
    assert len(sandbox.urls) == 6


def test_429_with_a_date_waits_by_the_clock_of_the_server(
    serve: Serve, waited: list[float]
) -> None:
    ahead = time.time() + 9999
    sandbox = serve(CUSTOMERS, clock=lambda: ahead)
    sandbox.fail(faults.too_many(formatdate(ahead + 30, usegmt=True)))

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [31]


def test_429_ten_times_in_a_row_is_waited_out(
    sandbox: Sandbox, waited: list[float]
) -> None:
    sandbox.fail(faults.too_many("5"), at=2, times=10)

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [6] * 10


def test_429_eleven_times_in_a_row_is_an_error(
    sandbox: Sandbox, waited: list[float]
) -> None:
    sandbox.fail(faults.too_many("5"), at=2, times=11)

    with pytest.raises(FatalAPIError, match=r"429, 'Too Many Attempts\.'.*later"):
        sync(sandbox)

    assert waited == [6] * 10


def test_429_is_counted_in_a_row(sandbox: Sandbox, waited: list[float]) -> None:
    for at in (2, 13):
        sandbox.fail(faults.too_many("5"), at=at, times=10)
    sandbox.fail(faults.refused(500, "Server Error"), at=12)

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [*[6] * 10, 1, *[6] * 10]


def test_429_without_seconds_waits_longer_each_time(
    sandbox: Sandbox, waited: list[float]
) -> None:
    sandbox.fail(faults.too_many(), times=9)

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_429_that_asks_for_more_than_a_quarter_of_an_hour_is_an_error(
    sandbox: Sandbox, waited: list[float]
) -> None:
    sandbox.fail(faults.too_many("86400"), at=2)

    with pytest.raises(FatalAPIError, match=r"429.*run the tap again later"):
        sync(sandbox)

    assert waited == []


def test_the_rate_limit_costs_what_the_api_says(
    serve: Serve, waited: list[float]
) -> None:
    """8,000 customers at 60 requests a minute: a burst of 60, a wait, the rest."""
    start = time.time()
    sandbox = serve(8000, rate_limit=60, clock=lambda: start + sum(waited))

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    statuses = [request.status for request in sandbox.requests]
    assert statuses == [200] * 60 + [429] + [200] * 21
    assert waited == [61]


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_real_rate_limit(serve: Serve, tmp_path: Path) -> None:
    """The same with real time, and as a command."""
    sandbox = serve(8000, rate_limit=60)

    result = run(tmp_path, sandbox)

    assert result.returncode == 0, result.stderr
    assert is_complete(parse(result.stdout), sandbox)
    assert [request.status for request in sandbox.requests].count(429) == 1
    assert "The API's rate limit is reached: waiting" in result.stderr
    assert "ERROR" not in result.stderr


def test_the_log_has_no_line_for_each_request(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(tmp_path, sandbox)

    assert result.returncode == 0
    assert "http_request_duration" not in result.stderr
    warnings = [line for line in result.stderr.splitlines() if "WARNING" in line]
    # Of Python 3.10 the SDK says so at every start.
    assert [line for line in warnings if "reached its end of life" not in line] == []


LIST = "GET /api/v2/crm/customers"
PASSING: dict[str, tuple[MakeFault, str]] = {
    "500": (
        lambda _: faults.refused(500, "Server Error"),
        f"{LIST} was answered with 500, 'Server Error'.",
    ),
    "502 with HTML": (lambda _: faults.html(502), f"{LIST} was answered with 502."),
    "504 with HTML": (lambda _: faults.html(504), f"{LIST} was answered with 504."),
    "503 without Retry-After": (
        lambda _: faults.refused(503, "Service Unavailable"),
        f"{LIST} was answered with 503, 'Service Unavailable'.",
    ),
    "connection reset": (lambda _: faults.reset, f"{LIST} failed: ConnectionError."),
    "cut off": (faults.cut_off, f"{LIST} failed: ChunkedEncodingError."),
    "cut off, unnoticed by HTTP": (
        faults.half,
        f"{LIST} was answered with something that is not JSON (application/json, ",
    ),
    "damaged gzip": (faults.damaged_gzip, f"{LIST} failed: ContentDecodingError."),
    "not UTF-8": (
        lambda _: faults.body(b'{"data": "\xff"}'),
        f"{LIST} was answered with something that is not JSON (application/json, ",
    ),
    "408": (
        lambda _: faults.refused(408, "Request Timeout"),
        f"{LIST} was answered with 408, 'Request Timeout'.",
    ),
    "200 with HTML": (
        lambda _: faults.html(200),
        f"{LIST} was answered with something that is not JSON (text/html",
    ),
    "200 with an empty body": (
        lambda _: faults.body(""),
        f"{LIST} was answered with something that is not JSON (application/json, 0 b",
    ),
    "time-out": (faults.silence, f"{LIST} failed: ReadTimeout."),
}


def spoil_page_three(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str, times: float
) -> str:
    """Let a fault take the place of a page; give how its message begins."""
    fault, sentence = PASSING[name]
    if name == "time-out":
        monkeypatch.setattr(HomeleStream, "timeout", 0.2)
    sandbox.fail(fault(sandbox), at=3, times=times)
    return sentence


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(
    sandbox: Sandbox,
    waited: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    sentence = spoil_page_three(sandbox, monkeypatch, name, times=2)

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [1, 2]
    assert sandbox.urls[2] == sandbox.urls[3] == sandbox.urls[4]
    first, second = messages(caplog)
    assert first[0] == second[0] == "WARNING"
    assert first[1].startswith(sentence)
    assert first[1].endswith("Trying again in 1 seconds.")
    assert second[1].endswith("Trying again in 2 seconds.")


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_in_two_minutes_is_an_error(
    sandbox: Sandbox,
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    sentence = spoil_page_three(sandbox, monkeypatch, name, times=math.inf)
    output = Output([])

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox, output=output)

    assert str(error.value).startswith(sentence)
    assert "run the tap again later" in str(error.value)
    assert waited == [*FAILURE_WAITS]
    assert 110 <= sum(waited) <= 130
    assert len(output.ids) == 200


def test_a_refused_connection_is_tried_again_and_then_an_error(
    waited: list[float],
) -> None:
    with Sandbox() as sandbox:
        pass

    with pytest.raises(FatalAPIError, match="GET /api/v2/crm/customers failed"):
        sync(sandbox)

    assert waited == [*FAILURE_WAITS]


def test_maintenance_is_waited_out_as_told(
    sandbox: Sandbox, waited: list[float]
) -> None:
    sandbox.fail(
        faults.refused(503, "Service Unavailable", Retry_After="300"), at=2, times=3
    )

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [300] * 3


@pytest.mark.parametrize(
    ("told", "expected"),
    [("300", [300] * 3), ("500", [500, 400]), ("3600", [900])],
)
def test_maintenance_is_waited_for_a_quarter_of_an_hour_at_most(
    sandbox: Sandbox, waited: list[float], told: str, expected: list[float]
) -> None:
    sandbox.fail(
        faults.refused(503, "Service Unavailable", Retry_After=told),
        at=2,
        times=math.inf,
    )

    with pytest.raises(FatalAPIError, match=r"503.*later"):
        sync(sandbox)

    assert waited == expected


def test_maintenance_that_is_over_at_once_is_not_asked_for_ever(
    sandbox: Sandbox, waited: list[float]
) -> None:
    sandbox.fail(
        faults.refused(503, "Service Unavailable", Retry_After="0"), times=math.inf
    )

    with pytest.raises(FatalAPIError, match=r"503.*later"):
        sync(sandbox)

    assert waited == [*FAILURE_WAITS]


@pytest.mark.parametrize(
    ("status", "headers", "body", "seconds"),
    [
        (429, {"Retry-After": "7"}, b"", 8),
        (429, {"Retry-After": " 7 "}, b"", 8),
        (429, {"Retry-After": "-7"}, b"", 1),
        (429, {"Retry-After": "Mon, 02 Mar 2026 12:00:40 GMT"}, b"", 41),
        (429, {"Retry-After": "Mon, 02 Mar 2026 12:00:40 -0000"}, b"", 41),
        (429, {"Retry-After": "Mon, 02 Mar 2026 11:00:00 GMT"}, b"", 1),
        (429, {}, b'{"retry_after": 7}', 8),
        (429, {}, b'{"retry_after": 7.5}', 8.5),
        (429, {}, b'{"retry_after": "7"}', 1),
        (429, {}, b"\xff", 1),
        (429, {}, b'"\xff"', 1),
        (503, {"Retry-After": "7"}, b"", 7),
        (503, {}, b'{"retry_after": 0.5}', 1),
        (503, {}, b"", 1),
        (599, {"Retry-After": "7"}, b"", 1),
        (408, {}, b"", 1),
    ],
)
def test_the_first_wait(
    status: int, headers: dict[str, str], body: bytes, seconds: float
) -> None:
    response = requests.Response()
    response.status_code = status
    response.headers.update({"Date": "Mon, 02 Mar 2026 12:00:00 GMT"} | headers)
    response._content = body  # noqa: SLF001
    decide = waits()
    decide.send(None)

    assert decide.send(RetriableAPIError("", response)) == seconds


def test_a_date_without_the_clock_of_the_server_is_compared_with_ours() -> None:
    response = requests.Response()
    response.headers["Retry-After"] = formatdate(time.time() + 100, usegmt=True)

    seconds = retry_after(response)

    assert seconds is not None
    assert 90 < seconds <= 100


def test_there_is_a_time_out() -> None:
    tap = TapHomele(config={"auth_token": "1|abc"})

    assert tap.streams["customers"].timeout == 60


def test_a_body_is_parsed_once(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def decode(body: bytes) -> object:
        parsed.append(body)
        return json.loads(body)

    monkeypatch.setattr("tap_homele.client.decode", decode)

    sync(sandbox)

    assert len(parsed) == len(sandbox.requests)


def test_a_long_message_of_the_api_is_cut(sandbox: Sandbox) -> None:
    sandbox.fail(faults.refused(422, "x" * 9999))

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox)

    assert len(str(error.value)) < 300


def test_an_error_does_not_hold_the_query(waited: list[float]) -> None:
    """It may hold a person's name."""
    with Sandbox() as sandbox:
        pass

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox, filter_query="Sara")

    assert waited
    assert "Sara" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        pytest.param(
            faults.refused(401, "Unauthenticated."),
            f"Homele does not know the token (401, 'Unauthenticated.', {LIST}): it is "
            "wrong, expired or revoked. Make a new one in Homele under Settings > API "
            "Integration and set it as auth_token.",
            id="401",
        ),
        pytest.param(
            faults.refused(403, "Insufficient permissions."),
            f"The token is not allowed to do this (403, 'Insufficient permissions.', "
            f"{LIST}). Give it the permission customer:read in Homele under Settings > "
            "API Integration.",
            id="403",
        ),
        pytest.param(
            faults.html(404),
            f"There is no Homele API at {{api_url}} (404, {LIST}). Check the setting "
            "api_url.",
            id="404",
        ),
        pytest.param(
            faults.html(302, Location="/login"),
            f"{LIST} was answered with a redirect (302), which is not followed, since "
            "the token is for this address only. Check the setting api_url.",
            id="302",
        ),
        pytest.param(
            faults.refused(422, "The per page field is wrong."),
            f"Homele refused {LIST} (422, 'The per page field is wrong.').",
            id="422",
        ),
    ],
)
def test_what_will_not_pass_fails_at_once(
    sandbox: Sandbox,
    waited: list[float],
    fault: Callable[[], Response],
    sentence: str,
) -> None:
    sandbox.fail(fault, at=2)

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox)

    assert str(error.value) == sentence.format(api_url=sandbox.api_url)
    assert waited == []
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ({}, "Homele does not know the token (401"),
        ({"1|sandbox": Token(permissions=frozenset())}, "permission customer:read"),
    ],
)
def test_as_a_command_it_ends_with_a_sentence_and_1(
    serve: Serve, tmp_path: Path, tokens: dict[str, Token], sentence: str
) -> None:
    result = run(tmp_path, serve(tokens=tokens))

    assert result.returncode == 1
    assert sentence in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert parse(result.stdout).records == []
