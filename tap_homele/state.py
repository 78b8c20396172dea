"""The tap's own part of the state of the stream: read, checked, written.

The bookmark is the SDK's: when a sync ends, the value in ``progress_markers``, cut to
the signpost, becomes ``replication_key_value``. What stands beside it is typed here. An
object that may be missing is a list of at most one: Meltano merges states key by key,
so that a key would never go, and cannot merge an object into null.
"""

from __future__ import annotations

import hashlib
import json
import logging
import typing as t
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec

from tap_homele.config import AUTO, CREATED_DATE
from tap_homele.records import utc, utc_now
from tap_homele.sync.scan import Checkpoint, Moment, Page, Progress, Round, Scan

State = dict[str, t.Any]

# An interrupted scan that began longer ago is read anew: too much has moved since.
RESUMABLE = timedelta(days=7)

logger = logging.getLogger(__name__)


class LastScan(msgspec.Struct, kw_only=True):
    """What the last complete scan has left in the state.

    Attributes:
        fingerprint: Of the list that the bookmark is for.
        highest_id: The highest id that it saw.
        compared_until: As in ``Scan``.
        undated: There are customers without a created date.
        scan_by: ``created_date``, once the cursor has skipped customers.
        margins: As in ``Scan``.
        cross_check: The round of the cross-check.
    """

    fingerprint: str | None = None
    highest_id: int | None = None
    compared_until: Moment | None = None
    undated: bool = False
    scan_by: str | None = None
    margins: tuple[int, int] | None = None
    cross_check: list[Round] = []


def fingerprint(url: str, filters: State, tables: dict[str, bool]) -> str:
    """Make a digest that tells one list from another.

    Args:
        url: The address that is asked.
        filters: The filters that are sent. They may hold a person's name.
        tables: What else the list depends on.
    """
    text = json.dumps([url, filters | tables], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def start_scan(state: State, first: Scan, scan_by: str, *, incremental: bool) -> Scan:
    """Decide from where a run reads: its bookmark, its way, its checkpoint.

    Args:
        state: The state of the stream. A checkpoint that does not fit is removed.
        first: The scan as a first run would start it.
        scan_by: The setting.
        incremental: Whether there is a bookmark, and a checkpoint to resume from.
    """
    last = read_last_scan(state)
    bookmark = state.get("replication_key_value") if incremental else None
    reason = ""
    if last.fingerprint not in {None, first.fingerprint}:
        last = LastScan()
        reason = (
            "The filters, the address or the streams are not those of the last run: "
            "reading all customers that match."
        )
    elif scan_by == CREATED_DATE and last.scan_by != CREATED_DATE:
        reason = "The list was not read by created date so far: reading all customers."
    elif bookmark and not utc(bookmark):
        reason = "The bookmark is not a time: reading all customers."
    if bookmark and reason:
        logger.warning(reason)
        bookmark = None
    scan = replace(
        first,
        bookmark=utc(bookmark) or first.first_bookmark,
        by_created_date=scan_by == CREATED_DATE
        or (scan_by == AUTO and last.scan_by == CREATED_DATE),
        is_cross_checked=scan_by == AUTO,
        last_highest_id=last.highest_id,
        compared_until=last.compared_until,
        progress=Progress(undated=last.undated),
        margins=last.margins,
        round=last.cross_check[0] if last.cross_check else None,
    )
    checkpoints = state.pop("scan", None)
    if incremental:
        # Without markers the SDK warns that it cannot resume.
        state |= {"scan": [], "progress_markers": state.get("progress_markers", {})}
    if not checkpoints:
        return scan
    stale = "a full table is always read from the top"
    if incremental:
        stale = resume(scan, checkpoints)
    if stale:
        logger.info(
            "Not resuming the scan that was interrupted: %s. Reading from the top of "
            "the list.",
            stale,
        )
    else:
        state["scan"] = checkpoints  # until there is another
        started = scan.progress.started
        logger.info("Resuming the scan of %s, which was interrupted.", started)
    return scan


def resume(scan: Scan, checkpoints: t.Any) -> str:  # noqa: PLR0911
    """Resume a scan where an earlier run was interrupted.

    The start of the scan carries over, and the signpost with it: what changed since
    then on pages that were read already arrives with the next scan.

    Returns:
        Why the list is read from the top instead; empty, if the scan is resumed.
    """
    try:
        (checkpoint,) = msgspec.convert(checkpoints, list[Checkpoint])
    except (msgspec.ValidationError, ValueError):
        return "its checkpoint is unreadable"
    is_later = (checkpoint.bookmark or "") > (scan.bookmark or "")
    if not is_later:
        # Even if it cannot be resumed: it may be a full refresh, which has no bookmark,
        # and then Meltano keeps the bookmark of the run before beside its checkpoint.
        scan.bookmark = checkpoint.bookmark
    if checkpoint.fingerprint != scan.fingerprint:
        return "it read with other filters, or from another address"
    if is_later:
        return "it began at a later bookmark"
    age = utc_now() - datetime.fromisoformat(checkpoint.started)
    if age > RESUMABLE:
        return f"it began more than {RESUMABLE.days} days ago"
    scan.by_created_date |= scan.is_cross_checked and checkpoint.by_created_date
    if checkpoint.by_created_date != scan.by_created_date:
        return "it read the list in another way"
    if not checkpoint.cursor and not checkpoint.created_before:
        return "it was on the first page"
    scan.resumes = scan.progress = checkpoint
    return ""


def read_last_scan(state: State) -> LastScan:
    """Read what the last scan has left; nothing, if it is unreadable.

    Removes from the state what version 0.1.0 wrote, and reads that.
    """
    state.pop("missing", None)
    known = {"fingerprint": state.pop("asked", None)} | state
    try:
        return msgspec.convert(known, LastScan)
    except msgspec.ValidationError:
        logger.info("The state has an unknown format: only its bookmark is used.")
        return LastScan()


def note_begin(state: State, scan: Scan, page: Page) -> None:
    """Write into the state that a scan has begun, before its first page is done.

    The SDK may write a state before the page is done, and the next run must know of a
    full refresh that was cut short.
    """
    if not state["scan"]:
        begun = page._replace(next_cursor=None, created_before=None)
        state["scan"] = msgspec.to_builtins([scan.checkpoint(begun)])


def note_page(state: State, scan: Scan, page: Page | None) -> None:
    """Write into the state what stands after a page.

    Args:
        state: The state of the stream.
        scan: The scan, after the page.
        page: The page; None, if no run can resume after it.
    """
    state["margins"] = scan.margins
    state["cross_check"] = msgspec.to_builtins([scan.round] if scan.round else [])
    note_bookmark(state, scan)
    # A page that leads nowhere keeps the checkpoint before it.
    if page and (page.next_cursor or page.created_before):
        state["scan"] = msgspec.to_builtins([scan.checkpoint(page)])


def note_bookmark(state: State, scan: Scan) -> None:
    """Write into the state what the SDK makes the bookmark of."""
    state["replication_key_signpost"] = scan.signpost
    if newest := scan.next_bookmark:
        markers = {"replication_key": "updated_at", "replication_key_value": newest}
        state.setdefault("progress_markers", {}).update(markers)


def note_end(state: State, scan: Scan, *, incremental: bool) -> None:
    """Write into the state that a scan has ended."""
    if incremental:
        note_bookmark(state, scan)
        state["scan"] = []
    # A customer that came after an interruption may be on a page read before it.
    highest_id = (scan.resumes or scan.progress).highest_id
    ended = LastScan(
        fingerprint=scan.fingerprint,
        highest_id=max(highest_id, scan.last_highest_id or 0),
        compared_until=scan.compared_until,
        undated=scan.progress.undated,
        scan_by=CREATED_DATE if scan.by_created_date else None,
        margins=scan.margins,
        cross_check=[scan.round] if scan.round else [],
    )
    state |= msgspec.to_builtins(ended)
