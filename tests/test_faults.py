"""Whatever the API answers on page 5 of 20: nobody is missing, and nothing is told.

Each fault comes once and for ever. The token, the customers and the query are marked,
and the marks are looked for in everything that comes out.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tap_homele.client import HomeleStream
from tap_homele.http import BRIEF_WAITS, FAILURE_WAITS, Session
from tap_homele.tap import TapHomele
from tests.sandbox import Sandbox, faults
from tests.sandbox.server import Token, json_response
from tests.singer import (
    Output,
    config_for,
    is_open,
    open_scan,
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flask import Response
    from requests import PreparedRequest
    from requests import Response as RequestsResponse

    from tests.conftest import Serve

    Answer = Callable[[], Response]

PAGES = 20
PAGE_SIZE = 5
FAULTY = 5

TOKEN = "1|marked-token"  # noqa: S105
PERSON = "Marked-Person"

LIST = "GET /api/v2/crm/customers"
NOT_JSON = f"{LIST} was answered with no readable JSON."
RATE_LIMIT = f"{LIST} was answered with 429, 'Too Many Attempts.'."
RATE_LIMIT_WAITS = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
MOVED = f"{LIST} was answered with a redirect"


@dataclass
class Fault:
    """A fault, what is said of it, and for how long it is tried again.

    ``stored`` is the page after which the last state was written when it stays, and
    ``written`` how many pages of customers were written in all.
    """

    make: Callable[[Sandbox], Answer] | None
    sentence: str
    waits: list[float] | tuple[float, ...] = ()
    times: int = 1
    stored: int = FAULTY - 1
    written: int = FAULTY - 1


def passing(make: Callable[[Sandbox], Answer], sentence: str) -> Fault:
    return Fault(make, sentence, FAILURE_WAITS)


def changed(
    change: Callable[[dict[str, Any]], object], sentence: str, **more: Any
) -> Fault:
    """Make a fault of the ordinary page after a change to it."""
    return Fault(lambda sandbox: faults.page(sandbox, change), sentence, **more)


def asked_with(sandbox: Sandbox, page: int) -> str:
    """Give the cursor that a page was asked for with."""
    return sandbox.urls[page - 1].partition("cursor=")[2]


def leads_back(to: int) -> Fault:
    """Make a fault of the next cursor, which is that of an earlier page."""

    def make(sandbox: Sandbox) -> Answer:
        def change(page: dict[str, Any]) -> None:
            page["meta"]["next_cursor"] = asked_with(sandbox, to)

        return faults.page(sandbox, change)

    return Fault(make, BACK, stored=FAULTY, written=FAULTY)


def page_five_for_ever(sandbox: Sandbox) -> Answer:
    page: dict[str, Any] = {}

    def answer() -> Response:
        if not page:
            page.update(sandbox.page())
        cursors.append(f"cursor-{len(cursors)}")
        meta = page["meta"] | {"next_cursor": cursors[-1]}
        return json_response(page | {"meta": meta})

    cursors: list[str] = []
    return answer


def too_many_until(sandbox: Sandbox) -> Answer:
    """Answer 429 with the time half a minute from now, by a clock that stands still."""
    now = time.time()
    sandbox.clock = lambda: now
    return faults.too_many(formatdate(now + 30, usegmt=True))


PAGE = "A page of the list"
BACK = "A page of the list leads back to a page that was read already."
OTHER = (
    "Homele may be under maintenance, or another API may be at this address: run the "
    "tap again later; if it stays so, check the setting api_url."
)
NO_HAS_MORE = f"{PAGE} does not say true or false in 'meta.has_more'."

FAULTS = {
    # Then the list without a cursor is asked for, and fails, too.
    "500": Fault(
        lambda _: faults.refused(500, "Server Error"),
        f"{LIST} was answered with 500, 'Server Error'.",
        [*BRIEF_WAITS, *FAILURE_WAITS],
    ),
    "502 with HTML": passing(
        lambda _: faults.html(502, PERSON), f"{LIST} was answered with 502."
    ),
    "503 with Retry-After": Fault(
        lambda _: faults.refused(503, "Service Unavailable", Retry_After="400"),
        f"{LIST} was answered with 503, 'Service Unavailable'.",
        [401, 401],
    ),
    "reset": passing(
        lambda _: faults.reset,
        f"{LIST} failed: the connection to 127.0.0.1:{{port}} failed.",
    ),
    "cut off": passing(faults.cut_off, f"{LIST} failed: the answer broke off."),
    "cut off, unnoticed by HTTP": passing(faults.half, NOT_JSON),
    "damaged gzip": passing(
        faults.damaged_gzip, f"{LIST} failed: the answer was damaged on its way."
    ),
    "not UTF-8": passing(lambda _: faults.body(b'{"data": "\xff"}'), NOT_JSON),
    "408": passing(
        lambda _: faults.refused(408, "Request Timeout"),
        f"{LIST} was answered with 408, 'Request Timeout'.",
    ),
    "200 with HTML": passing(
        lambda _: faults.html(200, PERSON),
        f"{LIST} was answered with an HTML page.",
    ),
    "200 with an empty body": passing(lambda _: faults.body(""), NOT_JSON),
    "silence": passing(
        faults.silence, f"{LIST} failed: there was no whole answer in time."
    ),
    "trickle": passing(
        faults.trickle, f"{LIST} failed: there was no whole answer in time."
    ),
    "endless": Fault(
        faults.endless,
        f"{LIST} was answered with more than 0.1 MiB, the bound of the tap. Set "
        "page_size to a smaller number, such as 10.",
    ),
    # Laravel's "down --status=200", and its paginator without an envelope of its own.
    "200 of a maintenance page": Fault(
        lambda _: faults.body('{"message": "Service Unavailable"}'),
        f"{LIST} was answered with no success, 'Service Unavailable'. {OTHER}",
    ),
    "200 of a stock paginator": Fault(
        lambda _: faults.body('{"data": [], "next_cursor": null, "per_page": 15}'),
        f"{LIST} was answered with no success. {OTHER}",
    ),
    "429 without Retry-After": Fault(
        lambda _: faults.too_many(), RATE_LIMIT, RATE_LIMIT_WAITS
    ),
    "429 with a date": Fault(
        too_many_until,
        RATE_LIMIT,
        [31] * 10,
    ),
    "429 with 0": Fault(lambda _: faults.too_many("0"), RATE_LIMIT, [1] * 10),
    "429 with a huge value": Fault(
        lambda _: faults.too_many("86400"),
        f"{RATE_LIMIT} Giving up: run the tap again in 86400 seconds.",
    ),
    "429 ten times": Fault(
        lambda _: faults.too_many("41"), RATE_LIMIT, [42] * 10, times=10
    ),
    "200 with success: false": Fault(
        lambda _: faults.body('{"success": false, "message": "Nope."}'),
        f"{LIST} was answered with success: false, 'Nope.'. {OTHER}",
    ),
    '200 with success: "false"': changed(
        lambda page: page.update(success="false", data=[], meta={"has_more": False}),
        f"{LIST} was answered with success: false. {OTHER}",
    ),
    "200 without success": changed(
        lambda page: page.pop("success"),
        f"{LIST} was answered with no success. {OTHER}",
    ),
    "200 with a JSON list": Fault(
        lambda _: faults.body(f'["{PERSON}"]'),
        f"{LIST} was answered with JSON that is not an object. {OTHER}",
    ),
    "no data": changed(
        lambda page: page.pop("data"),
        f"{LIST} was answered without 'data'. {OTHER}",
    ),
    "data null": changed(
        lambda page: page.update(data=None),
        f"{LIST} was answered with 'data' that is not a list.",
    ),
    "data an object": changed(
        lambda page: page.update(data={"name": PERSON}),
        f"{LIST} was answered with 'data' that is not a list.",
    ),
    "a row that is text": changed(
        lambda page: page["data"].insert(2, PERSON),
        f"{PAGE} cannot be stored: row 3 is not an object.",
    ),
    "a row without id": changed(
        lambda page: page["data"].insert(1, {"name": PERSON}),
        f"{PAGE} cannot be stored: row 2 has no integer 'id'.",
    ),
    "no meta": changed(lambda page: page.pop("meta"), f"{PAGE} has no 'meta'."),
    "no has_more": changed(lambda page: page["meta"].pop("has_more"), NO_HAS_MORE),
    "has_more a string": changed(
        lambda page: page["meta"].update(has_more="true"), NO_HAS_MORE
    ),
    "empty with more to come": changed(
        lambda page: page["data"].clear(),
        f"{PAGE} is empty, but says that more follow.",
    ),
    "next_cursor null": changed(
        lambda page: page["meta"].update(next_cursor=None),
        f"{PAGE} says that more follow, but has no 'meta.next_cursor'.",
    ),
    "A-A": leads_back(to=FAULTY),
    "A-B-A": leads_back(to=FAULTY - 1),
    "back to page two": leads_back(to=2),
    # Laravel answers a cursor that it cannot read with the first page.
    "back to page one": changed(
        lambda page: page["meta"].update(next_cursor="garbled"),
        BACK,
        stored=FAULTY + 1,
        written=FAULTY + 1,
    ),
    # Each time under a cursor that was never given before.
    "page five again and again": Fault(
        page_five_for_ever,
        f"{PAGE} has come 10 times before.",
        stored=FAULTY + 10,
        written=FAULTY + 10,
        times=11,
    ),
    "301": Fault(
        lambda _: faults.html(301, Location=f"https://acme.example/{PERSON}"),
        f"{MOVED} (301), which is not followed",
    ),
    "302 to a login page": Fault(
        lambda _: faults.html(302, Location="/login"),
        f"{MOVED} (302), which is not followed",
    ),
    "401": Fault(
        lambda _: faults.refused(401, "Unauthenticated."),
        f"Homele does not know the token (401, 'Unauthenticated.', {LIST})",
    ),
    "403": Fault(
        lambda _: faults.refused(403, "Insufficient permissions."),
        f"The token is not allowed to do this (403, 'Insufficient permissions.', "
        f"{LIST}). Give it the permission customer:read",
    ),
    **{
        f"{status} of a firewall": Fault(
            lambda _, status=status: faults.html(status, PERSON),
            f"{LIST} was answered with {status} by something in between, such as a "
            "firewall or a proxy: Homele answers in JSON.",
        )
        for status in (400, 401, 403)
    },
    "404": Fault(
        lambda _: faults.html(404, PERSON),
        f"There is no Homele API at this address (404, {LIST}). Check the setting "
        "api_url; if it has worked before, run the tap again later.",
    ),
    "422": Fault(
        lambda _: faults.refused(422, "The per page field is wrong."),
        f"Homele refused {LIST} (422, 'The per page field is wrong.').",
    ),
}


@pytest.fixture
def sandbox(serve: Serve) -> Sandbox:
    sandbox = serve(PAGES * PAGE_SIZE, tokens={TOKEN: Token()})
    for row in sandbox.customers.values():
        row["name"] = f"{PERSON} {row['name']}"
    return sandbox


@pytest.fixture(autouse=True)
def _soon(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Bring the bounds of an answer to where a test reaches them.

    Those of a good answer stay: a busy machine may take its time over it.
    """

    def seconds(_: object = None) -> float:
        return 0.2 if sandbox.fails_next else 60

    send = Session.send

    def send_soon(
        session: Session, prepared: PreparedRequest, **options: Any
    ) -> RequestsResponse:
        monkeypatch.setattr("tap_homele.http.ANSWER_SECONDS", seconds())
        return send(session, prepared, **options)

    monkeypatch.setattr("tap_homele.http.ANSWER_BYTES", 100_000)
    name = request.node.name
    if "trickle" in name:
        monkeypatch.setattr(Session, "send", send_soon)
    if "silence" in name:
        monkeypatch.setattr(HomeleStream, "timeout", property(seconds))


@pytest.fixture(params=["console", "structured"])
def _log_everything(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log at the level DEBUG, as a user reads it and as Meltano does."""
    monkeypatch.setenv("LOGLEVEL", "DEBUG")
    if request.param == "structured":
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {"()": "singer_sdk.logging.StructuredFormatter"},
            },
            "handlers": {
                "json": {"class": "logging.StreamHandler", "formatter": "json"},
            },
            "root": {"level": "DEBUG", "handlers": ["json"]},
        }
        file = tmp_path / "logging.yml"
        file.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("SINGER_SDK_LOG_CONFIG", str(file))


@dataclass
class Ended:
    """A command that ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> Output:
        return parse(self.stdout)


@pytest.fixture
def run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """Run the command in this process, where waiting takes no time."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def command(
        sandbox: Sandbox, state: dict[str, Any] | None = None, **settings: Any
    ) -> Ended:
        settings = {"page_size": PAGE_SIZE, "filter_query": PERSON} | settings
        config = config_for(sandbox, **settings) | {"auth_token": TOKEN}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "state.json").write_text(json.dumps(state or {}))
        files = {"--config": "config.json", "--state": "state.json"}
        args = [word for name in files for word in (name, str(tmp_path / files[name]))]
        try:
            with pytest.raises(SystemExit) as end:
                TapHomele.cli(args)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        captured = capfd.readouterr()
        ended = Ended(int(end.value.code or 0), captured.out, captured.err)
        keeps_secrets(ended)
        return ended

    yield command
    assert root.handlers == handlers


def keeps_secrets(ended: Ended) -> None:
    """See that the records alone tell of persons, and nothing of the token."""
    assert "marked-token" not in ended.stdout + ended.stderr
    assert PERSON not in ended.stderr
    for message in ended.output.messages:
        assert message["type"] == "RECORD" or PERSON not in json.dumps(message)


def logged(ended: Ended, level: str) -> list[str]:
    """Give what was logged at a level."""
    lines = [line.split(" | ") for line in ended.stderr.splitlines()]
    # Of an old Python the SDK says so at every start.
    return [
        line[3]
        for line in lines
        if line[1:2] == [f"{level:8}"] and "its end of life" not in line[3]
    ]


def is_complete(sandbox: Sandbox, *outputs: Output) -> bool:
    return {id_ for output in outputs for id_ in output.ids} == set(sandbox.customers)


def test_the_marks_are_found_where_they_are(sandbox: Sandbox, run: Any) -> None:
    ended = run(sandbox)

    assert PERSON in ended.stdout
    assert f"filter%5Bquery%5D={PERSON}" in sandbox.urls[0]
    assert sandbox.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("scan_by", ["cursor", "auto"])
@pytest.mark.parametrize("name", FAULTS)
def test_once(
    sandbox: Sandbox, waited: list[float], run: Any, name: str, scan_by: str
) -> None:
    fault = FAULTS[name]
    sandbox.fail(fault.make(sandbox), at=FAULTY, times=fault.times)
    run = partial(run, scan_by=scan_by)

    ended = run(sandbox)

    if fault.waits:
        assert ended.exit_code == 0, ended.stderr
        assert waited == list(fault.waits[: fault.times])
        assert is_complete(sandbox, ended.output)
        assert logged(ended, "ERROR") == []
        lines = logged(ended, "WARNING") + logged(ended, "INFO")
        told = [line for line in lines if "Trying again" in line or "; waiting" in line]
        for line, seconds in zip(told, waited, strict=True):
            if fault.sentence == RATE_LIMIT:
                end = f" requests; waiting {seconds:.0f} s for the rate limit."
                assert line.startswith("customers: ")
                assert line.endswith(end)
            else:
                said = fault.sentence.format(port=sandbox.port)
                assert line == f"{said} Trying again in {seconds:.0f} s."
        assert not is_open(ended.output)
        # The same page again, and no other.
        asked_again = sandbox.urls[FAULTY : FAULTY + fault.times]
        assert asked_again == [sandbox.urls[FAULTY - 1]] * fault.times
        pages = [url for url in sandbox.urls if "date_" not in url]
        # The end and the top are asked for again.
        assert len(pages) == PAGES + 2 + fault.times
        assert (pages == sandbox.urls) is (scan_by == "cursor")
    else:
        stops_and_goes_on(sandbox, ended, fault, run)


@pytest.mark.parametrize("name", FAULTS)
def test_for_ever(sandbox: Sandbox, waited: list[float], run: Any, name: str) -> None:
    fault = FAULTS[name]
    sandbox.fail(fault.make(sandbox), at=FAULTY, times=math.inf)

    ended = run(sandbox)

    assert waited == list(fault.waits)
    stops_and_goes_on(sandbox, ended, fault, run)


def stops_and_goes_on(
    sandbox: Sandbox, ended: Ended, fault: Fault, run: Callable[..., Ended]
) -> None:
    """See that a run failed as it should, and that the next completes the table."""
    assert ended.exit_code == 1
    (sentence,) = logged(ended, "ERROR")
    assert sentence.startswith(fault.sentence.format(port=sandbox.port))
    if fault.waits:
        assert "Giving up: run the tap again" in sentence
    assert len(ended.output.ids) == fault.written * PAGE_SIZE
    state = ended.output.state["bookmarks"]["customers"]
    assert "replication_key_value" not in state
    expected = open_scan(ended.output)["position"]["cursor"]
    asked = len(sandbox.requests)
    if asked > fault.stored:
        assert expected == asked_with(sandbox, fault.stored + 1)
    sandbox.faults.clear()

    second = run(sandbox, ended.output.state)

    assert second.exit_code == 0, second.stderr
    assert asked_with(sandbox, asked + 1) == expected
    assert is_complete(sandbox, ended.output, second.output)
    # And not, because it has simply begun anew.
    resumed = not expected.startswith(("garbled", "cursor-"))
    assert is_complete(sandbox, second.output) is not resumed
    assert not is_open(second.output)


@pytest.mark.parametrize("refused", [1, math.inf])
def test_connection_refused(
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    run: Any,
    refused: float,
) -> None:
    """The fifth page is asked for when nobody listens, as when a server starts anew."""
    port = sandbox.port
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == refused:
            sandbox.serve(port)

    clock = SimpleNamespace(sleep=wait, monotonic=time.monotonic)
    monkeypatch.setattr("backoff._sync.time", clock)
    sandbox.meanwhile = lambda: (
        sandbox.hang_up() if len(sandbox.requests) == FAULTY - 1 else None
    )

    ended = run(sandbox)

    if refused == 1:
        assert ended.exit_code == 0, ended.stderr
        assert waited == [1]
        assert is_complete(sandbox, ended.output)
    else:
        sandbox.serve(port)
        assert waited == [*FAILURE_WAITS]
        failed = f"the connection to 127.0.0.1:{port} failed: Connection refused."
        sentence = f"{LIST} failed: {failed}"
        stops_and_goes_on(sandbox, ended, Fault(None, sentence, waited), run)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.usefixtures("_log_everything", "waited")
def test_nothing_is_told(sandbox: Sandbox, run: Any, name: str) -> None:
    sandbox.fail(FAULTS[name].make(sandbox), at=FAULTY, times=math.inf)

    ended = run(sandbox)

    tells_nothing(ended)


@pytest.mark.usefixtures("_log_everything", "waited")
def test_nothing_is_told_of_a_refused_connection(sandbox: Sandbox, run: Any) -> None:
    sandbox.hang_up()

    ended = run(sandbox)

    sandbox.serve()
    tells_nothing(ended)


def tells_nothing(ended: Ended) -> None:
    """See that everything was logged; ``run`` has looked for the marks in it."""
    assert ended.exit_code == 1
    assert "DEBUG" in ended.stderr or '"level":"debug"' in ended.stderr
    assert "Traceback" in ended.stderr or '"traceback":' in ended.stderr


@pytest.mark.usefixtures("waited")
@pytest.mark.parametrize("query", ["1", "a", "Sara Ahmed", " Sara Ahmed "])
def test_a_message_does_not_tell_what_was_asked(
    serve: Serve, run: Any, query: str
) -> None:
    """The token, its secret alone, and the query in every spelling."""
    sandbox = serve(100, tokens={TOKEN: Token()})
    told = (
        f"Token {TOKEN} is bad, marked-token too; SARA ahmed, Sara%20Ahmed, "
        "filter%5Bquery%5D=Sara+Ahmed"
    )
    sandbox.fail(faults.refused(401, told), at=1)

    ended = run(sandbox, filter_query=query)

    assert ended.exit_code == 1
    if "Sara" in query:
        assert "sara" not in ended.stderr.lower()


def test_a_field_that_is_no_line_of_the_log(sandbox: Sandbox, run: Any) -> None:
    row = min(sandbox.customers.values(), key=lambda row: row["id"])
    row["x\n2026 | ERROR | forged\x1b[31m" + 1000 * "y"] = 1

    ended = run(sandbox)

    assert ended.exit_code == 0
    assert logged(ended, "ERROR") == []
    assert "\x1b" not in ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if "forged" in line]
    assert len(line) < 400
