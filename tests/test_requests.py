"""One request and its answer: headers, waiting, trying again, giving up."""

from __future__ import annotations

import json
import logging
import math
import re
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
import requests
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError

from tap_homele import http
from tap_homele.http import FAILURE_WAITS, FIRST_WAITS, retry_after, waits
from tap_homele.tap import TapHomele
from tests.sandbox import Sandbox, faults
from tests.sandbox.server import Token
from tests.singer import Output, clean_environment, config_for, parse, run, sync

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
        if record.name in {"tap-homele.customers", "tap_homele.http"}
        and not record.getMessage().startswith(("Beginning", "Starting"))
        and " and sent, in " not in record.getMessage()
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
    wait = f"; waiting {seconds} s for the rate limit."
    assert messages(caplog) == [
        ("INFO", f"customers: 200 read, 200 changed, 3 requests{wait}")
    ]
    # The same page again, and no other.
    assert sandbox.urls[2] == sandbox.urls[3]
    assert len(sandbox.urls) == 7


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

    with pytest.raises(FatalAPIError, match=r"429, 'Too Many.*again in 5 seconds"):
        sync(sandbox)

    assert waited == [6] * 10


def test_429_is_counted_for_each_request(sandbox: Sandbox, waited: list[float]) -> None:
    """Whatever comes between: or a request could wait for hours."""
    for at in (2, 8, 20):
        sandbox.fail(faults.too_many("5"), at=at, times=5 if at < 20 else 10)
    sandbox.fail(faults.refused(500, "Server Error"), at=7)

    output = sync(sandbox, page_size=20)

    assert is_complete(output, sandbox)
    assert waited == [*[6] * 5, 1, *[6] * 5, *[6] * 10]


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

    with pytest.raises(FatalAPIError, match=r"429.*run the tap again in 86400 s"):
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
    assert statuses == [200] * 60 + [429] + [200] * 22
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
    # One line for the wait, and none right after it.
    (progress,) = re.findall(r"customers: .* requests[.;].*", result.stderr)
    said = "customers: 6,000 read, 6,000 changed, 61 requests; waiting "
    assert progress.startswith(said)
    assert "ERROR" not in result.stderr


def test_the_end_is_asked_for_twice(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    sync(serve(3))

    # The page, which is asked for again.
    assert any(" in 2 requests and " in line for line in caplog.messages)


def test_a_good_run_has_no_warnings(serve: Serve, tmp_path: Path) -> None:
    """With details, a cross-check, and fields that have no column."""
    settings = {"scan_by": "auto", "customer_details": True}

    first = run(tmp_path, serve(150), LOGLEVEL="WARNING", **settings)

    assert first.returncode == 0
    assert len(parse(first.stdout).records) == 150 + 150
    # On an old Python, the SDK warns of its end.
    log = [line for line in first.stderr.splitlines() if " | WARNING " in line]
    assert [line for line in log if "py.warnings" not in line] == []


def test_a_structured_log_has_whole_lines(sandbox: Sandbox, tmp_path: Path) -> None:
    """As Meltano asks for it: one JSON object a line."""
    path = tmp_path / "logging.yaml"
    path.write_text(
        "version: 1\n"
        "disable_existing_loggers: false\n"
        "formatters: {json: {(): singer_sdk.logging.StructuredFormatter}}\n"
        "handlers: {err: {class: logging.StreamHandler, formatter: json}}\n"
        "root: {level: INFO, handlers: [err]}\n"
    )
    sandbox.fail(faults.too_many("0"), at=2)

    ended = run(tmp_path, sandbox, SINGER_SDK_LOG_CONFIG=str(path))

    lines = [json.loads(line)["message"] for line in ended.stderr.splitlines()]
    (last,) = [line for line in lines if " and sent, in " in line]
    assert last.startswith("customers: 350 read, 350 changed and sent, in 7 requests")
    wait = (
        "customers: 100 read, 100 changed, 2 requests; waiting 1 s for the rate limit."
    )
    assert wait in lines


def test_the_log_has_no_line_for_each_request(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(tmp_path, sandbox)

    assert result.returncode == 0
    assert "http_request" not in result.stderr
    warnings = [line for line in result.stderr.splitlines() if "WARNING" in line]
    # Of an old Python the SDK says so at every start.
    assert [line for line in warnings if "its end of life" not in line] == []


def test_the_last_line_says_what_the_run_did(
    sandbox: Sandbox, waited: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sandbox.fail(faults.refused(503, "Down", Retry_After="7"), at=2)

    sync(sandbox)

    assert waited == [8]
    (said,) = [line for line in caplog.messages if line.startswith("customers: ")]
    assert re.fullmatch(
        r"customers: 350 read, 350 changed and sent, in 7 requests and \d s\. "
        r"Next run: changes since 2026-02-20T18:00:01Z\.",
        said,
    )


def test_a_refused_connection_is_tried_again_and_then_an_error(
    waited: list[float],
) -> None:
    with Sandbox() as sandbox:
        pass

    sentence = (
        f"GET /api/v2/crm/customers failed: the connection to 127.0.0.1:{sandbox.port} "
        "failed: Connection refused."
    )
    with pytest.raises(FatalAPIError, match=sentence):
        sync(sandbox)

    # It may be a wrong address: the run has had no answer yet.
    assert sum(waited) == 10


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (
            "https://no-such-host.invalid:8443",
            "the connection to no-such-host.invalid:8443 failed: ",
        ),
        (
            "http://127.0.0.1:9",
            "the connection to 127.0.0.1:9 failed: Connection refused",
        ),
        (
            "https://10.255.255.1",
            "there was no whole answer in time: nobody answers at 10.255.255.1",
        ),
    ],
)
def test_an_address_where_nobody_is(
    waited: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    reason: str,
) -> None:
    if "10.255" in address:

        def connect(*_: object, **__: object) -> None:
            raise TimeoutError("timed out")

        monkeypatch.setattr("urllib3.util.connection.create_connection", connect)

    with pytest.raises(FatalAPIError) as error:
        TapHomele(config={"auth_token": "x", "api_url": address}).sync_all()

    said = f"GET /api/v2/crm/customers failed: {reason}"
    assert waited == [*FIRST_WAITS]
    (first, *_) = [m for m in caplog.messages if "Trying again" in m]
    assert first.startswith(said)
    assert first.endswith(". Trying again in 1 s.")
    assert str(error.value).startswith(said)
    assert "If it has never worked, check the setting api_url" in str(error.value)


def test_maintenance_is_waited_out_as_told(
    sandbox: Sandbox, waited: list[float]
) -> None:
    sandbox.fail(
        faults.refused(503, "Service Unavailable", Retry_After="300"), at=2, times=2
    )

    output = sync(sandbox)

    assert is_complete(output, sandbox)
    assert waited == [301, 301]


@pytest.mark.parametrize(
    ("told", "expected"),
    [("60", [61] * 10), ("300", [301] * 2), ("500", [501]), ("3600", [])],
)
def test_maintenance_is_waited_for_a_quarter_of_an_hour_at_most(
    sandbox: Sandbox, waited: list[float], told: str, expected: list[float]
) -> None:
    sandbox.fail(
        faults.refused(503, "Service Unavailable", Retry_After=told),
        at=2,
        times=math.inf,
    )

    with pytest.raises(FatalAPIError, match=rf"503.*in {told} seconds"):
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
        (429, {}, b'{"retry_after": "7"}', 8),
        (429, {}, b'{"retry_after": true}', 1),
        (429, {"Retry-After": f"1 Mar {'9' * 30} 9:9:9"}, b"", 1),
        (429, {"Date": f"1 Mar {'9' * 30} 9:9:9"}, b'{"retry_after": 7}', 8),
        (429, {}, b"\xff", 1),
        (429, {}, b'"\xff"', 1),
        (503, {"Retry-After": "7"}, b"", 8),
        (503, {}, b'{"retry_after": 0.5}', 1.5),
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


@pytest.mark.parametrize("digits", [20, 400])
def test_a_wait_of_any_length_can_be_read(digits: int) -> None:
    number = "9" * digits
    for headers, body in (({"Retry-After": number}, ""), ({}, number)):
        response = requests.Response()
        response.headers.update(headers)
        response._content = b'{"retry_after": %s}' % body.encode()  # noqa: SLF001

        assert (retry_after(response) or 0) >= 10**9


def test_a_date_without_the_clock_of_the_server_is_compared_with_ours() -> None:
    response = requests.Response()
    response.headers["Retry-After"] = formatdate(time.time() + 100, usegmt=True)

    seconds = retry_after(response)

    assert seconds is not None
    assert 90 < seconds <= 100


def test_a_message_is_shown_without_what_is_secret(sandbox: Sandbox) -> None:
    said = "Token 1|sandbox:\nno \x1b[31mSara"
    sandbox.fail(faults.refused(422, said))

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox, filter_query="Sara")

    assert "(422, 'Token ***: no  [31m***')" in str(error.value)


def test_an_answer_has_bounds() -> None:
    """The tests of the faults reach them sooner."""
    assert 60 < http.ANSWER_SECONDS <= 300
    assert 2**20 < http.ANSWER_BYTES <= 2**26


def test_a_run_that_waits_for_an_answer_can_be_stopped(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.fail(faults.silence(sandbox), at=2)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox)))
    tap = subprocess.Popen(
        [sys.executable, "-m", "tap_homele", "--config", config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    with tap:
        while len(sandbox.requests) < 2:
            time.sleep(0.01)
        tap.send_signal(signal.SIGTERM)
        tap.wait(timeout=20)

    assert tap.returncode == 128 + signal.SIGTERM


def test_there_is_a_time_out() -> None:
    tap = TapHomele(config={"auth_token": "1|abc"})

    assert tap.streams["customers"].timeout == (10, 60)


def test_a_body_is_parsed_once(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def decode(body: bytes) -> object:
        parsed.append(body)
        return json.loads(body)

    monkeypatch.setattr("tap_homele.records.decode", decode)

    sync(sandbox)

    assert len(parsed) == len(sandbox.requests)


def test_a_long_message_of_the_api_is_cut(sandbox: Sandbox) -> None:
    sandbox.fail(faults.refused(422, "x" * 9999))

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox)

    assert len(str(error.value)) < 300


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


class KeptOpen(BaseHTTPRequestHandler):
    """Answers without closing the connection, with and without a length."""

    protocol_version = "HTTP/1.1"
    body = b"x" * 100_000

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            size = f"{len(self.body):x}".encode()
            self.wfile.write(size + b"\r\n" + self.body + b"\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_all_requests_use_one_connection() -> None:
    """Over https a new one costs a handshake."""
    ports: set[int] = set()

    class Noted(KeptOpen):
        def do_GET(self) -> None:
            ports.add(self.client_address[1])
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), Noted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with http.Session() as session:
            for path in ("/", "/chunked", "/chunked", "/"):
                url = f"http://127.0.0.1:{server.server_port}{path}"
                request = requests.Request("GET", url).prepare()
                assert session.send(request, timeout=5).content == KeptOpen.body
        server.shutdown()

    assert len(ports) == 1


NAMED = " What Homele does not take may be a filter: filter_query, filter_owner_ids."


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("at", [1, 3])
def test_the_filters_are_named_where_the_first_request_is_refused(
    sandbox: Sandbox, waited: list[float], status: int, at: int
) -> None:
    """And their values are not: one may be a person's name."""
    sandbox.fail(faults.refused(status, "No."), at=at, times=math.inf)
    ids = sorted(
        {row["owner"]["id"] for row in sandbox.customers.values() if row["owner"]}
    )

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox, filter_query="a", filter_owner_ids=ids)

    assert (NAMED in str(error.value)) is (at == 1)
    assert bool(waited) is (status == 500)


@pytest.mark.parametrize(
    ("status", "filters"), [(500, {}), (401, {"filter_query": "x"})]
)
def test_no_filter_is_blamed_for_something_else(
    sandbox: Sandbox, waited: list[float], status: int, filters: dict[str, str]
) -> None:
    sandbox.fail(faults.refused(status, "No."), times=math.inf)

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox, **filters)

    assert "filter" not in str(error.value)
    assert bool(waited) is (status == 500)


def test_no_cookie_is_kept(sandbox: Sandbox) -> None:
    """Each would come back with all later requests, until these are too long."""

    @sandbox.app.after_request
    def with_cookies(response: Response) -> Response:
        name = f"session_{len(sandbox.requests)}"
        response.set_cookie(name, "x" * 100)
        return response

    sync(sandbox)

    assert len(sandbox.requests) > 3
    assert all("Cookie" not in request.headers for request in sandbox.requests)
