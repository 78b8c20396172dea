"""Nothing is lost: random histories, and what each rule is there for."""

from __future__ import annotations

import importlib
import random
import time
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tap_homele import records, state, streams
from tap_homele.records import Record
from tap_homele.sync import changes, cursor, plan
from tap_homele.sync.changes import Progress
from tap_homele.sync.plan import Plan
from tap_homele.sync.values import OpenScan, Page
from tap_homele.tap import TapHomele
from tests.sandbox import Sandbox
from tests.simulation import LossError, Simulation
from tests.singer import Writer

quick = importlib.import_module("tap_homele.sync.quick")  # not the function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.simulation

# A rule that is switched off must cause a loss in one of so many histories.
SEARCHED = 3000


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def play(
    world: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], str | None]:
    """Play a history; give the log of one that ends in a loss."""
    playing: list[Simulation] = []
    clock = SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic)
    monkeypatch.setattr("backoff._sync.time", clock)
    monkeypatch.setattr(records, "utc_now", lambda: playing[-1].local_time)
    # The version of a full table is the second in which the tap began.
    initialized_at = property(lambda _: int(playing[-1].local_time.timestamp() * 1000))
    monkeypatch.setattr(TapHomele, "initialized_at", initialized_at)

    def one(seed: int, **options: Any) -> str | None:
        playing[:] = [Simulation(world, random.Random(seed), **options)]
        try:
            playing[-1].play()
        except LossError as loss:
            return str(loss)
        return None

    return one


@pytest.mark.slow
def test_nothing_is_lost(
    play: Callable[[int], str | None], request: pytest.FixtureRequest
) -> None:
    @settings(
        max_examples=request.config.getoption("histories"),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.integers(min_value=0, max_value=2**64))
    def histories(seed: int) -> None:
        assert play(seed) is None

    histories()


@pytest.mark.parametrize(
    "fault", [None, "drops_nulls", "drops_seconds", "fails_on_null"]
)
@pytest.mark.parametrize("scan_by", ["auto", "created_date"])
def test_nothing_is_lost_by_windows(
    play: Callable[..., str | None],
    request: pytest.FixtureRequest,
    scan_by: str,
    fault: str | None,
) -> None:
    for seed in range(request.config.getoption("histories") // 8):
        assert play(seed, scan_by=scan_by, fault=fault) is None, seed


@pytest.mark.parametrize(
    ("scan_by", "fault"),
    [
        *(("cursor", None), ("auto", None), ("created_date", None)),
        *(("auto", "drops_nulls"), ("created_date", "fails_on_null")),
    ],
)
def test_no_details_are_lost(
    play: Callable[..., str | None],
    request: pytest.FixtureRequest,
    scan_by: str,
    fault: str | None,
) -> None:
    for seed in range(request.config.getoption("histories") // 40):
        assert play(seed, scan_by=scan_by, fault=fault, details=True) is None, seed


@pytest.mark.slow
@pytest.mark.parametrize("scan_by", ["cursor", "auto"])
def test_nothing_is_lost_by_quick_runs(
    play: Callable[..., str | None], request: pytest.FixtureRequest, scan_by: str
) -> None:
    for seed in range(request.config.getoption("histories") // 2):
        assert play(seed, scan_by=scan_by, quick=True) is None, seed


def lose(play: Callable[..., str | None], start: int = 0, **options: Any) -> str:
    """Search for a history that ends in a loss, and give its log.

    ``start`` is where it was found last, to save time.
    """
    seeds = range(start, start + SEARCHED)
    found = next(((s, loss) for s in seeds if (loss := play(s, **options))), None)
    assert found, f"no loss in {SEARCHED} histories"
    print(f"lost in history {found[0]}")
    return found[1]


def test_the_overlap_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "OVERLAP", timedelta(0))

    assert lose(play)


def test_the_clock_of_the_server_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Progress.add

    def by_ours(self: Progress, page: Page, sent: list[Record]) -> None:
        now = records.utc_now().isoformat(timespec="seconds")
        self.started = self.started or now
        add(self, page, sent)

    monkeypatch.setattr(Progress, "add", by_ours)

    assert lose(play)


def test_the_last_activity_is_needed_to_tell_what_changed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(page: Page, plan: Plan) -> list[Record]:
        since = plan.since
        return [r for r in page.records if (r["updated_at"] or since) >= since]

    monkeypatch.setattr(streams, "changed", without)

    assert "last_activity_at" in lose(play)


def test_rereading_the_top_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where deletes are announced; else the next run mends it."""
    monkeypatch.setattr(cursor, "read_top", lambda *_: ())

    assert "gone from the replica" in lose(play)


def test_rereading_the_top_until_nobody_comes_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursor, "MAX_READINGS", 1)

    # It is not called complete then, but nobody listens.
    monkeypatch.setattr(cursor, "RESTLESS", "")
    follow = cursor._moved  # noqa: SLF001

    def unheard(*args: Any) -> Iterator[Page]:
        return (step for step in follow(*args) if isinstance(step, Page))

    monkeypatch.setattr(cursor, "_moved", unheard)

    assert lose(play, start=1270)


def carry_over(monkeypatch: pytest.MonkeyPatch, **without: str) -> None:
    """Resume without a part of the open scan."""
    of = Progress.of

    def partly(plan: Plan) -> Progress:
        return of(plan._replace(open_scan=replace(plan.open_scan, **without)))

    monkeypatch.setattr(Progress, "of", partly)


def test_the_start_that_is_carried_over_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_over(monkeypatch, started="")

    assert lose(play)


@pytest.mark.slow
def test_the_newest_time_that_is_carried_over_changes_nothing_for_the_worse(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the bookmark is older, so more comes again, and nothing is lost."""
    carry_over(monkeypatch, newest="")

    for seed in range(50):
        assert play(seed) is None


def test_the_bookmark_that_is_carried_over_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a full refresh that was interrupted is forgotten."""
    with_open_scan = plan._with_open_scan  # noqa: SLF001

    def forgotten(made: Plan, open_scan: OpenScan) -> Plan:
        if open_scan.bookmark != made.since:
            return made
        return with_open_scan(made, open_scan)

    monkeypatch.setattr(plan, "_with_open_scan", forgotten)

    assert lose(play, start=2900)


@pytest.mark.parametrize("options", [{}, {"quick": True, "start": 40}])
def test_the_digest_of_the_list_is_needed(
    play: Callable[..., str | None],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(state, "list_id", lambda *_, **__: "always the same")

    assert lose(play, **options)


def test_one_spelling_of_times_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_it_came(value: str | None) -> str | None:
        return value and datetime.fromisoformat(value).isoformat()

    monkeypatch.setattr(records, "utc", as_it_came)
    kinds = records._KINDS  # noqa: SLF001
    monkeypatch.setitem(kinds, "date-time", (datetime, as_it_came))

    assert lose(play)


def test_the_version_at_the_end_is_needed(
    play: Callable[[int], str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "write_message", Writer.write)

    assert "are gone from the replica" in lose(play, start=180)


def test_the_bookmark_that_stays_in_a_quick_run_is_needed(
    play: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "QUICK", "no kind")

    assert lose(play, quick=True)


def test_the_overlap_of_a_quick_run_is_needed(
    play: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "OVERLAP", timedelta(0))

    assert lose(play, quick=True)


def test_the_created_dates_of_a_quick_run_are_needed(
    play: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "_new", lambda *_: ())

    assert lose(play, quick=True)
