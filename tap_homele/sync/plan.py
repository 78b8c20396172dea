"""Decide what a run does, at one place, before its first request."""

import logging
import typing as t
from datetime import date, timedelta

from tap_homele.records import utc
from tap_homele.sync.times import DAY, OVERLAP, earlier
from tap_homele.sync.values import (
    CREATED_DATE,
    CURSOR,
    Mode,
    Note,
    OpenScan,
    Saved,
    Traits,
)

# The kinds of runs.
FULL: t.Final = "full scan"
RESUMED: t.Final = "resumed scan"
QUICK: t.Final = "quick run"
Kind: t.TypeAlias = t.Literal["full scan", "resumed scan", "quick run"]

# So many full scans in a row have to leave the cursor before it is left for good.
ENOUGH_SCANS = 2

NOT_RESUMING = "Not resuming the interrupted scan: {}. Reading the list from its top."
STILL_TO_SEND = "Customers are still to be sent: reading the list from its top."
_ANOTHER_LIST = (
    "The token, the filters, the address or the streams are not those of the last run: "
    "reading all customers that match."
)
_NOT_BY_DATE = "The list was not read by created date so far: reading all customers."
_NOT_STARTING = (
    "start_date has no effect beside a bookmark: --full-refresh starts there."
)
_NO_TIME = "The bookmark is not a time: reading all customers."


class Settings(t.NamedTuple):
    """What the user has set, as far as it decides how the list is read.

    Attributes:
        list_id: A digest of the list: its address, filters, token, selected streams.
        scan_by: The setting; ``auto``, ``cursor`` or ``created_date``.
        start_date: The bookmark of a first run; empty: none.
        created_from: The first created date that the filters let through.
        created_to: The last one.
        has_filters: There are filters.
        is_incremental: There is a bookmark, and a scan can be resumed.
        announces_deletes: The target deletes what this run does not send.
        full_scan_every: For so long after a full scan began, runs are quick ones.
    """

    list_id: str
    scan_by: str = "auto"
    start_date: str = ""
    created_from: date | None = None
    created_to: date | None = None
    has_filters: bool = False
    is_incremental: bool = True
    announces_deletes: bool = False
    full_scan_every: timedelta = timedelta(0)


class Plan(t.NamedTuple):
    """What a run does, or the rest of it.

    Attributes:
        kind: What it reads: all, the rest of an interrupted scan, or what is recent.
        mode: How it reads the list.
        since: Customers that changed since then are sent; empty: all.
        above: Customers with a higher id are sent, too; None: not known.
        settings: What the user has set.
        saved: What the runs before have left.
        old_bookmark: The bookmark that the runs before have left; empty: none.
        now: This machine's clock when it was made, UTC.
        open_scan: What a resumed scan resumes.
        has_left_cursor: It was made because the cursor had to be left.
        reads_anew: What was read before it does not count.
        notes: What to log.
    """

    kind: Kind
    mode: Mode
    since: str
    above: int | None
    settings: Settings
    saved: Saved
    old_bookmark: str
    now: str
    open_scan: OpenScan = OpenScan()
    has_left_cursor: bool = False
    reads_anew: bool = True
    notes: tuple[Note, ...] = ()

    @property
    def active_since(self) -> str:
        """The last activity from which on a customer has changed.

        A day without a time may stand for any moment of it.
        """
        holds_days = self.saved.traits.holds_days
        return earlier(self.since, DAY) if holds_days else self.since


def make_plan(saved: Saved, bookmark: str, settings: Settings, now: str) -> Plan:
    """Decide what a run does.

    Args:
        saved: What the runs before have left in the state.
        bookmark: The SDK's bookmark in it; empty: none.
        settings: What the user has set.
        now: The clock of this machine, UTC.
    """
    warnings, open_scan = [], saved.open_scan
    if saved.list_id not in {"", settings.list_id}:
        # What is known of another list does not hold for this one; but to announce
        # deletes, nobody may be forgotten.
        warnings = [_ANOTHER_LIST]
        traits = Traits(has_undated=saved.traits.has_undated)
        saved = Saved(list_id=saved.list_id, traits=traits)
    trust = saved.cursor_trust
    is_left = trust.failed_scans >= ENOUGH_SCANS
    by_date = settings.scan_by == CREATED_DATE or (
        settings.scan_by == "auto" and is_left
    )
    if settings.scan_by == CREATED_DATE and not (is_left or trust.sent_by_date):
        warnings = warnings or [_NOT_BY_DATE]
    if bookmark and not utc(bookmark):
        warnings = warnings or [_NO_TIME]
    known = utc(bookmark) or ""
    since = settings.start_date if warnings or not known else known
    plan = Plan(
        kind=FULL,
        mode=CREATED_DATE if by_date else CURSOR,
        since=since if settings.is_incremental else "",
        above=saved.last_full_scan.max_id,
        settings=settings,
        saved=saved,
        old_bookmark=known,
        now=now,
        notes=tuple(Note(w, logging.WARNING) for w in warnings if bookmark),
    )
    if known and settings.is_incremental and settings.start_date and not warnings:
        plan = _noted(plan, _NOT_STARTING)
    if open_scan.list_id and settings.is_incremental:
        return _with_open_scan(plan, open_scan)
    if settings.full_scan_every:
        reason = _why_full(plan)
        return _noted(plan, f"Full scan: {reason}.") if reason else _quick(plan)
    return plan


def _noted(plan: Plan, sentence: str) -> Plan:
    return plan._replace(notes=(*plan.notes, Note(sentence)))


def _with_open_scan(plan: Plan, open_scan: OpenScan) -> Plan:
    """Resume a scan that has not ended; or read from the top what it has not sent.

    Its start carries over, so it does not grow old: what changed since then, on pages
    that were read already, arrives with the next scan.
    """
    # It may be a full refresh, which has no bookmark, and then Meltano keeps the
    # bookmark of the run before beside it.
    since = min(plan.since, open_scan.bookmark)
    is_auto = plan.settings.scan_by == "auto"
    position = open_scan.position
    # Where it has left the cursor, its first window is the top.
    by_date = open_scan.mode == CREATED_DATE and bool(open_scan.started)
    reason = ""
    if open_scan.list_id != plan.settings.list_id:
        reason = "it read another list"
    elif open_scan.bookmark > plan.since:
        reason = "it began at a later bookmark"
    elif not (position.cursor or position.resume_before or by_date):
        reason = "it was on the first page"
    elif open_scan.mode != plan.mode and not (is_auto and by_date):
        reason = "it read the list in another way"
    plan = plan._replace(since=since)
    if not open_scan.started:
        return _noted(plan, STILL_TO_SEND)
    if reason:
        return _noted(plan, NOT_RESUMING.format(reason))
    return _noted(
        plan._replace(kind=RESUMED, mode=open_scan.mode, open_scan=open_scan),
        f"Resuming the interrupted scan of {open_scan.started}.",
    )


def _why_full(plan: Plan) -> str:
    """Return why a run is a full scan although quick ones are wanted; else nothing."""
    saved, settings = plan.saved, plan.settings
    began = saved.last_full_scan.started
    if not settings.is_incremental:
        return "with FULL_TABLE each run is one"
    if plan.mode == CREATED_DATE:
        return "the list is read by created date"
    if not plan.old_bookmark or not saved.traits.is_sorted or saved.traits.holds_days:
        return "none of this list has shown yet that it is sorted by last activity"
    oldest = earlier(plan.now, settings.full_scan_every)
    if not oldest < began <= saved.last_run.started <= plan.now:
        return f"the last one began at {began}, and now it is {plan.now}"
    return ""


def _quick(plan: Plan) -> Plan:
    """Make a plan that reads what was active or created since the last run."""
    since = earlier(plan.saved.last_run.started, OVERLAP)
    return _noted(
        plan._replace(kind=QUICK, since=since, above=plan.saved.last_run.max_id),
        f"Quick run: customers active or created since {since}.",
    )


def full_scan_instead(plan: Plan, reason: str) -> Plan:
    """Make the plan of a full scan for a quick run that failed."""
    settings = plan.settings._replace(full_scan_every=timedelta(0))
    full = make_plan(plan.saved, plan.old_bookmark, settings, plan.now)
    note = Note(f"The quick run failed, a full scan follows: {reason}", logging.WARNING)
    return full._replace(settings=plan.settings, notes=(note,))


def from_top_instead(plan: Plan, reason: str) -> Plan:
    """Make the plan of a full scan for one that cannot be resumed."""
    note = Note(NOT_RESUMING.format(reason))
    return plan._replace(kind=FULL, open_scan=OpenScan(), notes=(note,))


def by_created_date_instead(plan: Plan, reason: str, *, hid_some: bool) -> Plan:
    """Make a plan for the rest of a run that has to leave the cursor.

    Args:
        plan: The plan so far.
        reason: Why, in a sentence.
        hid_some: The cursor has skipped customers. It may have hidden others from
            earlier runs, so all are sent, unless the full scan before did so.
    """
    trust, settings = plan.saved.cursor_trust, plan.settings
    is_for_good = plan.kind == FULL and trust.failed_scans + 1 >= ENOUGH_SCANS
    # Left for good, it is never compared again.
    may_hide = hid_some or (is_for_good and not plan.saved.comparison.is_complete)
    resends = may_hide and plan.since > settings.start_date and not trust.sent_by_date
    rest = "in this run. The next full scan begins by the cursor again."
    if is_for_good:
        rest = (
            "from now on, as in the full scan before: that takes half as many requests "
            "again, and more than twice as many where more than 50 customers are "
            "created in a day. A full refresh gives the cursor another chance."
        )
    return plan._replace(
        mode=CREATED_DATE,
        since=settings.start_date if resends else plan.since,
        has_left_cursor=True,
        reads_anew=resends,
        notes=(Note(f"{reason} Reading by created date {rest}", logging.WARNING),),
    )
