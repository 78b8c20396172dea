"""What a run does, as a table; and readings of lists of pages, without a server."""

from __future__ import annotations

import ast
from array import array
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tap_homele import sync
from tap_homele.errors import CursorError, PageError, ServerError
from tap_homele.sync import cursor
from tap_homele.sync.count import counted
from tap_homele.sync.plan import FULL, QUICK, RESUMED, Settings, make_plan
from tap_homele.sync.values import (
    Comparison,
    CursorTrust,
    Doubt,
    Learned,
    Note,
    OpenScan,
    Page,
    Position,
    Query,
    Saved,
    Total,
    Traits,
    Watermark,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = "2026-03-02T12:00:00+00:00"
AN_HOUR_AGO = "2026-03-02T11:00:00+00:00"
BOOKMARK = "2026-03-01T00:00:00+00:00"
LIST = "this list"
USUAL = Settings(list_id=LIST)
QUICKLY = USUAL._replace(full_scan_every=timedelta(hours=24))
RUN = Watermark(AN_HOUR_AGO, 900)
SAVED = Saved(
    list_id=LIST, last_full_scan=RUN, last_run=RUN, traits=Traits(is_sorted=True)
)
OPEN = OpenScan(
    list_id=LIST,
    bookmark=BOOKMARK,
    started=AN_HOUR_AGO,
    position=Position(cursor="here"),
)


def with_open(**values: Any) -> Saved:
    known = {name: getattr(OPEN, name) for name in OPEN.__struct_fields__}
    return saved(open_scan=OpenScan(**(known | values)))


def saved(**values: Any) -> Saved:
    known = {name: getattr(SAVED, name) for name in SAVED.__struct_fields__}
    return Saved(**(known | values))


class Case(NamedTuple):
    saved: Saved = SAVED
    bookmark: str = BOOKMARK
    settings: Settings = USUAL
    # Expected.
    kind: str = FULL
    mode: str = "cursor"
    since: str = BOOKMARK
    says: str = ""


LEFT_ONCE = saved(cursor_trust=CursorTrust(failed_scans=1))
LEFT = saved(cursor_trust=CursorTrust(failed_scans=2))
BY_DATE = USUAL._replace(scan_by="created_date")
ANOTHER = "The token, the filters, the address or the streams are not those"
CASES = {
    "the first run": Case(saved=Saved(), bookmark="", since=""),
    "the first run with a start date": Case(
        saved=Saved(),
        bookmark="",
        settings=USUAL._replace(start_date="2026-01-01T00:00:00+00:00"),
        since="2026-01-01T00:00:00+00:00",
    ),
    "a start date beside a bookmark": Case(
        settings=USUAL._replace(start_date="2020-01-01T00:00:00+00:00"),
        says="start_date has no effect beside a bookmark: --full-refresh starts there.",
    ),
    "a start date beside the bookmark of another list": Case(
        saved=saved(list_id="other"),
        settings=USUAL._replace(start_date="2020-01-01T00:00:00+00:00"),
        since="2020-01-01T00:00:00+00:00",
        says=ANOTHER,
    ),
    "an incremental run": Case(),
    "a full table": Case(settings=USUAL._replace(is_incremental=False), since=""),
    "another list": Case(saved=saved(list_id="other"), since="", says=ANOTHER),
    "another list, no bookmark": Case(
        saved=saved(list_id="other"), bookmark="", since=""
    ),
    "a bookmark that is no time": Case(
        bookmark="soon", since="", says="The bookmark is not a time"
    ),
    "a bookmark in another zone": Case(bookmark="2026-03-01T03:00:00+03:00"),
    "left once": Case(saved=LEFT_ONCE),
    "left for good": Case(saved=LEFT, mode="created_date"),
    "left for good, but by cursor": Case(
        saved=LEFT, settings=USUAL._replace(scan_by="cursor")
    ),
    "by created date for the first time": Case(
        settings=BY_DATE,
        mode="created_date",
        since="",
        says="The list was not read by created date so far",
    ),
    "by created date": Case(
        saved=saved(cursor_trust=CursorTrust(sent_by_date=True)),
        settings=BY_DATE,
        mode="created_date",
    ),
    "resumed": Case(
        saved=with_open(), kind=RESUMED, says="Resuming the interrupted scan of 2026"
    ),
    "resumed, not quick": Case(
        saved=with_open(), settings=QUICKLY, kind=RESUMED, says="Resuming"
    ),
    "a full refresh resumed": Case(
        saved=with_open(bookmark=""), kind=RESUMED, since="", says="Resuming"
    ),
    "owed": Case(
        saved=with_open(bookmark="", position=Position()),
        since="",
        says="Not resuming the interrupted scan: it was on the first page",
    ),
    "owed, with other filters": Case(
        saved=with_open(bookmark="", list_id="other"),
        since="",
        says="Not resuming the interrupted scan: it read another list",
    ),
    "an open scan at a later bookmark": Case(
        saved=with_open(bookmark=NOW),
        says="Not resuming the interrupted scan: it began at a later bookmark",
    ),
    "an open scan that has left the cursor": Case(
        saved=with_open(mode="created_date", position=Position()),
        kind=RESUMED,
        mode="created_date",
        says="Resuming",
    ),
    "an open scan by created date, now by cursor": Case(
        saved=with_open(mode="created_date"),
        settings=USUAL._replace(scan_by="cursor"),
        says="Not resuming the interrupted scan: it read the list in another way",
    ),
    "an open scan by cursor, which was left for good": Case(
        saved=saved(open_scan=OPEN, cursor_trust=CursorTrust(failed_scans=2)),
        mode="created_date",
        says="Not resuming the interrupted scan: it read the list in another way",
    ),
    "a full table beside an open scan": Case(
        saved=with_open(), settings=USUAL._replace(is_incremental=False), since=""
    ),
    "quick": Case(
        settings=QUICKLY,
        kind=QUICK,
        since="2026-03-02T10:55:00+00:00",
        says="Quick run: customers active or created since 2026-03-02T10:55:00+00:00.",
    ),
    "a full scan is due": Case(
        settings=USUAL._replace(full_scan_every=timedelta(minutes=30)),
        says="Full scan: the last one began at 2026-03-02T11:00:00+00:00, and now it",
    ),
    "a clock that was set back": Case(
        saved=saved(last_run=Watermark("2026-03-02T13:00:00+00:00", 900)),
        settings=QUICKLY,
        says="Full scan: the last one began",
    ),
    "quick, with a full table": Case(
        settings=QUICKLY._replace(is_incremental=False),
        since="",
        says="Full scan: with FULL_TABLE each run is one.",
    ),
    "quick, left for good": Case(
        saved=LEFT,
        settings=QUICKLY,
        mode="created_date",
        says="Full scan: the list is read by created date.",
    ),
    "quick, not sorted": Case(
        saved=saved(traits=Traits()),
        settings=QUICKLY,
        says="Full scan: none of this list has shown yet that it is sorted",
    ),
    "quick, a list of days": Case(
        saved=saved(traits=Traits(is_sorted=True, holds_days=True)),
        settings=QUICKLY,
        says="Full scan: none of this list has shown yet that it is sorted",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    case = CASES[name]

    plan = make_plan(case.saved, case.bookmark, case.settings, NOW)

    assert (plan.kind, plan.mode, plan.since) == (case.kind, case.mode, case.since)
    said = [note.sentence for note in plan.notes]
    assert len(said) == bool(case.says)
    assert all(sentence.startswith(case.says) for sentence in said)
    assert plan.above == (None if case.saved.list_id != LIST else 900)


def test_a_list_of_days_is_compared_from_the_day_before() -> None:
    days = saved(traits=Traits(holds_days=True))

    assert make_plan(SAVED, BOOKMARK, USUAL, NOW).active_since == BOOKMARK
    assert make_plan(days, BOOKMARK, USUAL, NOW).active_since < BOOKMARK
    assert make_plan(days, "", USUAL, NOW).active_since == ""


# A list of pages, and a lambda.


def row(id_: int, at: str | None = "2026-01-01T00:00:00+00:00") -> dict[str, Any]:
    return {
        "id": id_,
        "created_at": f"2026-01-01T00:00:{id_ % 60:02}+00:00",
        "updated_at": at,
        "last_activity_at": at,
    }


PAGES = {
    None: Page([row(6), row(5)], NOW, "b"),
    "b": Page([row(4), row(3)], NOW, "c"),
    "c": Page([row(2)], NOW),
}


def ids(steps: Iterator[Any]) -> list[list[int]]:
    return [[r["id"] for r in step.records] for step in steps if isinstance(step, Page)]


def fetch(query: Query) -> Iterator[Page]:
    page = PAGES[query.cursor]
    yield page
    while page.next_cursor:
        page = PAGES[page.next_cursor]
        yield page


def test_the_end_is_asked_for_twice() -> None:
    asked: list[Query] = []

    def noted(query: Query) -> Iterator[Page]:
        asked.append(query)
        return fetch(query)

    pages = list(cursor.follow(noted, Query()))

    assert ids(iter(pages)) == [[6, 5], [4, 3], [2], []]
    assert asked == [Query(), Query(cursor="c")]
    resumable = [page.resume_at for page in pages]
    assert resumable == [Position("b"), Position("c"), None, None]


def test_two_readings_can_be_open() -> None:
    first, second = cursor.follow(fetch, Query()), cursor.follow(fetch, Query("b"))

    assert ids(iter([next(first), next(second), next(first), next(second)])) == [
        *([6, 5], [4, 3], [4, 3], [2])
    ]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_cursor_fails_if_it_fails_before_and_after_the_list_answers(
    failures: int,
) -> None:
    left = [failures]
    asked: list[str | None] = []

    def failing(query: Query) -> Iterator[Page]:
        asked.append(query.cursor)
        for page in fetch(query):
            if page is PAGES["b"] and left[0]:
                left[0] -= 1
                raise ServerError("500")
            yield page

    if failures == 1:
        assert ids(cursor.follow(failing, Query())) == [[6, 5], [4, 3], [2], []]
        assert asked == [None, None, "b", "c"]
    else:
        with pytest.raises(CursorError):
            list(cursor.follow(failing, Query()))
        assert asked == [None, None, "b"]


def test_an_outage_is_none_of_the_cursor() -> None:
    def down(query: Query) -> Iterator[Page]:
        if query.cursor or asked:
            raise ServerError("500")
        asked.append(query)
        yield PAGES[None]
        raise ServerError("500")

    asked: list[Query] = []

    with pytest.raises(ServerError):
        list(cursor.follow(down, Query()))


def test_a_list_that_ends_and_goes_on_without_end_is_an_error() -> None:
    numbers = iter(range(1000))

    def now_and_then(_: Query) -> Iterator[Page]:
        at = next(numbers)
        if at:
            yield Page([row(at)], NOW, f"cursor {at}")
        yield Page([row(1000 + at)], NOW)

    with pytest.raises(PageError, match="has ended, and then gone on, 10 times"):
        list(cursor.follow(now_and_then, Query()))


def test_an_order_of_steps() -> None:
    """By the cursor alone: the pages, the end, the top, and what was learned."""
    settings = USUAL._replace(scan_by="cursor")
    plan = make_plan(Saved(), "", settings, NOW)

    *pages, learned = sync.steps(fetch, plan, lambda: None)

    assert ids(iter(pages)) == [[6, 5], [4, 3], [2], [], []]
    assert isinstance(learned, Learned)
    assert learned.ids == array("q", [6, 5, 4, 3, 2])
    assert learned.counts
    assert learned.traits.is_sorted


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (Total(), 100, ""),
        (Total(100, 100), 100, ""),
        (Total(80, 100), 100, ""),
        (Total(79, 100), 100, "21 customers can be seen"),
        (Total(100, 100), 50, ""),
        (Total(100, 100), 49, "Of 100 customers that the last full scan has seen, 49"),
        (Total(50, 50), 100, ""),
    ],
)
def test_the_list_is_held_against_the_last_one(
    before: Total, now: int, said: str
) -> None:
    plan = make_plan(saved(total=before), BOOKMARK, USUAL, NOW)
    learned = Learned(array("q", range(1, 1 + now)), Traits(), Comparison())

    *steps, last = counted(plan, learned, in_doubt=False)

    assert isinstance(last, Learned)
    assert last.counts
    assert last.resends_next == said.startswith("21")
    assert len(steps) == bool(said)
    for step in steps:
        assert isinstance(step, Doubt | Note)
        assert step.sentence.startswith(said)
    # In doubt, some may be missing: then a smaller number says nothing.
    *steps, last = counted(plan, learned, in_doubt=True)
    assert isinstance(last, Learned)
    is_smaller = before.customers is not None and now < before.customers
    assert last.counts is not is_smaller
    assert len(steps) == said.startswith("21")


def test_a_filter_makes_no_warning_of_customers_that_appear() -> None:
    settings = USUAL._replace(has_filters=True)
    plan = make_plan(saved(total=Total(50, 100)), BOOKMARK, settings, NOW)
    learned = Learned(array("q", range(1, 101)), Traits(), Comparison())

    (last,) = counted(plan, learned, in_doubt=False)

    assert isinstance(last, Learned)
    assert not last.resends_next


def test_who_moved_down_is_counted_once() -> None:
    plan = make_plan(saved(total=Total(100, 100)), BOOKMARK, USUAL, NOW)
    twice = array("q", [*range(1, 101), *range(1, 51)])

    steps = list(counted(plan, Learned(twice, Traits(), Comparison()), in_doubt=False))

    assert len(steps) == 1


def test_a_position_can_be_a_day() -> None:
    position = Position(resume_before=date(2026, 1, 1))
    plan = make_plan(
        with_open(mode="created_date", position=position), BOOKMARK, USUAL, NOW
    )

    assert plan.open_scan.position.resume_before == date(2026, 1, 1)


# Nobody writes into what was given.

FILES = sorted((Path(sync.__file__).parent).glob("*.py"))


def written_arguments(function: ast.FunctionDef) -> list[str]:
    """Return the arguments, other than self, to whose attributes a function assigns."""
    arguments = {a.arg for a in (*function.args.args, *function.args.kwonlyargs)}
    return [
        f"{function.name}: {node.value.id}.{node.attr}"
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and isinstance(node.value, ast.Name)
        and node.value.id in arguments - {"self"}
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_function_assigns_to_what_it_was_given(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert written_arguments(node) == []


def test_what_is_assigned_to_is_found() -> None:
    (function,) = ast.parse("def f(scan):\n    scan.gaps += 1\n").body
    assert isinstance(function, ast.FunctionDef)
    assert written_arguments(function) == ["f: scan.gaps"]
