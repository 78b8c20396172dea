"""What stands in the state of the stream: read, checked, written.

The bookmark is the SDK's: when a sync ends, the value in ``progress_markers``, cut to
the signpost, becomes ``replication_key_value``. Beside it stands one typed value,
``Saved``, always written whole.
"""

import hashlib
import json
import logging
import typing as t

import msgspec
from msgspec.structs import replace

from tap_homele.records import utc
from tap_homele.sync.changes import Progress
from tap_homele.sync.count import count_once
from tap_homele.sync.plan import ENOUGH_SCANS, FULL, QUICK, Plan
from tap_homele.sync.values import (
    CREATED_DATE,
    CursorTrust,
    Learned,
    OpenScan,
    Saved,
    Total,
    Traits,
    Watermark,
)

State: t.TypeAlias = dict[str, t.Any]

# The key of ``Saved``; and those of older versions, which stood beside the bookmark.
KEY = "saved"
OLD_KEYS = (
    *("asked", "missing", "fingerprint", "highest_id", "scan_by", "undated"),
    *("full_scan", "covered_until", "covered_id", "compared_until", "margins"),
    *("cross_check", "scan"),
)

logger = logging.getLogger(__name__)


def list_id(
    url: str, filters: State, tables: dict[str, bool], token: str | None = None
) -> str:
    """Make a short digest that tells one list from another.

    Args:
        url: The address that is asked.
        filters: The filters that are sent. They may hold a person's name.
        tables: What else the list depends on.
        token: What a company sees depends on it; None: as before version 0.2.
    """
    parts: list[t.Any] = [url, filters | tables]
    if token is not None:
        parts.append(token.rpartition("|")[2])  # Sanctum takes it without its number
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(state: State, this_list: str, old_list: str) -> tuple[Saved, str]:
    """Read what earlier runs have left.

    Args:
        state: The state of the stream.
        this_list: The digest of the list that this run reads.
        old_list: The same, as older versions made it.

    Returns:
        What is saved; and the bookmark, empty if there is none.
    """
    bookmark = str(state.get("replication_key_value") or "")
    if KEY not in state:
        return _read_old(state, this_list, old_list), bookmark
    saved = state[KEY]
    try:
        return msgspec.convert(saved, Saved), bookmark
    except msgspec.ValidationError:
        logger.info("The state has an unknown format: only its bookmark is used.")
    # A list that cannot be read differs from all others, so that everything is read.
    known = saved.get("list_id") if isinstance(saved, dict) else None
    return Saved(list_id=known if isinstance(known, str) else "unknown"), bookmark


def _read_old(state: State, this_list: str, old_list: str) -> Saved:
    """Read what an older version has left; the rest is learned anew."""
    asked = state.get("fingerprint") or state.get("asked")
    max_id, scans = state.get("highest_id"), state.get("scan")
    open_scan = OpenScan()
    if isinstance(scans, list) and len(scans) == 1 and isinstance(scans[0], dict):
        owed = scans[0].get("bookmark")
        # Without a start it is read from the top.
        if isinstance(owed, str):
            same = scans[0].get("fingerprint") == old_list
            name = this_list if same else "unknown"
            open_scan = OpenScan(list_id=name, bookmark=utc(owed) or "")
    is_left = state.get("scan_by") == CREATED_DATE
    return Saved(
        list_id="" if not asked else this_list if asked == old_list else "unknown",
        last_full_scan=Watermark(max_id=max_id if type(max_id) is int else None),
        open_scan=open_scan,
        # Not known: one day more is compared once.
        traits=Traits(holds_days=bool(asked), has_undated=bool(state.get("undated"))),
        cursor_trust=CursorTrust(ENOUGH_SCANS, sent_by_date=True)
        if is_left
        else CursorTrust(),
    )


def after_page(progress: Progress) -> Saved:
    """Return what is to stand in the state while a full scan is read."""
    plan = progress.plan
    if plan.kind == QUICK or not plan.settings.is_incremental:
        return plan.saved
    return replace(
        plan.saved,
        open_scan=OpenScan(
            list_id=plan.settings.list_id,
            bookmark=plan.since,
            mode=plan.mode,
            started=progress.started,
            newest=progress.newest,
            max_id=progress.max_id,
            position=progress.position,
        ),
    )


def after_run(progress: Progress, learned: Learned) -> Saved:
    """Return what is to stand in the state when a run has ended."""
    plan = progress.plan
    saved, settings = plan.saved, plan.settings
    seen = max(progress.max_id, saved.last_run.max_id or 0)
    run = Watermark(progress.started, seen)
    if plan.kind == QUICK:
        return replace(saved, last_run=run, traits=learned.traits)
    max_id = max(progress.max_id, saved.last_full_scan.max_id or 0)
    due = OpenScan(list_id=settings.list_id, bookmark=settings.start_date)
    return Saved(
        list_id=settings.list_id,
        last_full_scan=Watermark(progress.started, max_id),
        last_run=run,
        open_scan=due if learned.resends_next else OpenScan(),
        comparison=learned.comparison,
        traits=learned.traits,
        cursor_trust=_trust_after(plan),
        total=_total_after(progress, learned),
    )


def _trust_after(plan: Plan) -> CursorTrust:
    """Return how far the cursor can be trusted after a full scan.

    A resumed scan neither counts nor resets: it has not read the list from its top.
    """
    trust, by_date = plan.saved.cursor_trust, plan.mode == CREATED_DATE
    failed_scans = trust.failed_scans
    if plan.kind == FULL and plan.has_left_cursor:
        failed_scans += 1
    elif plan.kind == FULL and not by_date:
        failed_scans = 0
    # By this scan, or before it.
    sent_all = plan.since in {"", plan.settings.start_date} or trust.sent_by_date
    return CursorTrust(failed_scans, sent_by_date=by_date and sent_all)


def _total_after(progress: Progress, learned: Learned) -> Total:
    """Return how many customers a list has, up to the highest id of a full scan."""
    if progress.plan.kind != FULL or not learned.counts:
        return progress.plan.saved.total
    known = (id_ for id_ in learned.ids if id_ <= progress.max_id)
    return Total(count_once(known), progress.max_id)


def write(state: State, saved: Saved, progress: Progress) -> None:
    """Write into the state of the stream.

    Args:
        state: Of the stream.
        saved: What the next runs need.
        progress: Has the bookmark, which the SDK moves when the sync ends.
    """
    for key in OLD_KEYS:
        state.pop(key, None)
    state[KEY] = msgspec.to_builtins(saved)
    if not progress.plan.settings.is_incremental:
        return
    # Without markers the SDK warns that it cannot resume.
    markers = state.setdefault("progress_markers", {})
    if progress.started and (bookmark := progress.next_bookmark):
        # What the SDK makes the bookmark of.
        state["replication_key_signpost"] = bookmark
        markers |= {"replication_key": "updated_at", "replication_key_value": bookmark}
