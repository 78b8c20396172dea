"""The tap's own part of the state of the stream: read, checked, written.

The bookmark is the SDK's: when a sync ends, the value in ``progress_markers``, cut to
the signpost, becomes ``replication_key_value``. What stands beside it is typed
(``Memory`` and ``Checkpoint``). The checkpoint is a list of at most one: Meltano merges
states key by key, so that a key would never go, and cannot merge an object into null.
"""

import hashlib
import json
import logging
import typing as t
from datetime import timedelta

import msgspec
from msgspec.structs import replace

from tap_homele.config import AUTO, CREATED_DATE
from tap_homele.records import utc, utc_now
from tap_homele.sync import quick
from tap_homele.sync.cursor import NOT_RESUMING
from tap_homele.sync.scan import Checkpoint, Memory, Page, Scan

State = dict[str, t.Any]

# An interrupted scan that began longer ago is read anew: too much has moved since.
RESUMABLE = timedelta(days=7)

logger = logging.getLogger(__name__)


def fingerprint(url: str, filters: State, tables: dict[str, bool]) -> str:
    """Make a digest that tells one list from another.

    Args:
        url: The address that is asked.
        filters: The filters that are sent. They may hold a person's name.
        tables: What else the list depends on.
    """
    text = json.dumps([url, filters | tables], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def start_scan(state: State, scan: Scan, scan_by: str) -> None:
    """Decide from where a run reads: its bookmark, its way, its checkpoint.

    Args:
        state: The state of the stream. A checkpoint that does not fit is removed.
        scan: The scan as a first run would start it.
        scan_by: The setting.
    """
    scan.memory = memory = read_memory(state)
    begins = scan.checkpoint
    bookmark = state.get("replication_key_value") if scan.is_incremental else None
    reason = ""
    if memory.fingerprint not in {None, begins.fingerprint}:
        scan.memory = Memory(fingerprint=memory.fingerprint)
        reason = (
            "The filters, the address or the streams are not those of the last run: "
            "reading all customers that match."
        )
    elif scan_by == CREATED_DATE and memory.scan_by != CREATED_DATE:
        reason = "The list was not read by created date so far: reading all customers."
    elif bookmark and not utc(bookmark):
        reason = "The bookmark is not a time: reading all customers."
    if bookmark and reason:
        logger.warning(reason)
        bookmark = None
    begins.bookmark = utc(bookmark) or scan.first_bookmark
    scan.is_cross_checked = scan_by == AUTO
    way = scan.memory.scan_by if scan_by == AUTO else scan_by
    begins.by_created_date = way == CREATED_DATE
    checkpoints = state.pop("scan", None)
    if checkpoints and (stale := resume(scan, checkpoints)):
        logger.info(NOT_RESUMING, stale)
    if scan.resumes:
        logger.info("Resuming the interrupted scan of %s.", scan.resumes.started)
    if scan.full_scan_every and not checkpoints:
        quick.decide(scan)
    if scan.is_incremental:
        # Without markers the SDK warns that it cannot resume.
        state.setdefault("progress_markers", {})
    if scan.is_incremental and not scan.quick_since:
        # Also before the first page is done: the next run must know of a full refresh
        # that was cut short.
        state["scan"] = msgspec.to_builtins([scan.checkpoint])


def resume(scan: Scan, checkpoints: t.Any) -> str:  # noqa: PLR0911
    """Resume a scan where an earlier run was interrupted.

    The start of the scan carries over, and the signpost with it: what changed since
    then on pages that were read already arrives with the next scan.

    Returns:
        Why the list is read from the top instead; empty, if the scan is resumed.
    """
    begins = scan.checkpoint
    if not scan.is_incremental:
        return "a full table is always read from the top"
    try:
        (checkpoint,) = msgspec.convert(checkpoints, list[Checkpoint])
    except (msgspec.ValidationError, ValueError):
        return "its checkpoint is unreadable"
    # Even if it cannot be resumed: it may be a full refresh, which has no bookmark, and
    # then Meltano keeps the bookmark of the run before beside its checkpoint.
    begins.bookmark = min(begins.bookmark, checkpoint.bookmark)
    if checkpoint.fingerprint != begins.fingerprint:
        return "it read with other filters, or from another address"
    if checkpoint.bookmark > begins.bookmark:
        return "it began at a later bookmark"
    if not checkpoint.cursor and not checkpoint.created_before:
        return "it was on the first page"
    if checkpoint.started < (utc_now() - RESUMABLE).isoformat():
        return f"it began more than {RESUMABLE.days} days ago"
    begins.by_created_date |= scan.is_cross_checked and checkpoint.by_created_date
    if checkpoint.by_created_date != begins.by_created_date:
        return "it read the list in another way"
    scan.resumes, scan.checkpoint = checkpoint, replace(checkpoint)
    return ""


def read_memory(state: State) -> Memory:
    """Read what earlier runs have left, version 0.1.0 too; nothing, if unreadable."""
    known = {"fingerprint": state.get("asked")} | state
    try:
        return msgspec.convert(known, Memory)
    except msgspec.ValidationError:
        logger.info("The state has an unknown format: only its bookmark is used.")
        # A damaged fingerprint differs from all others, so that everything is read.
        return Memory(fingerprint=known["fingerprint"] and str(known["fingerprint"]))


def note_page(state: State, scan: Scan, page: Page | None) -> None:
    """Write into the state what stands after a page.

    Args:
        state: The state of the stream.
        scan: The scan, after the page.
        page: The page; None, if no run can resume after it.
    """
    state |= msgspec.to_builtins(scan.memory)
    if not scan.is_incremental:
        return
    state["replication_key_signpost"] = scan.signpost
    if newest := scan.next_bookmark:
        # What the SDK makes the bookmark of.
        markers = {"replication_key": "updated_at", "replication_key_value": newest}
        state.setdefault("progress_markers", {}).update(markers)
    # A page that leads nowhere keeps the checkpoint before it.
    if page and (page.next_cursor or page.created_before):
        scan.checkpoint.cursor = page.next_cursor
        scan.checkpoint.created_before = page.created_before
        state["scan"] = msgspec.to_builtins([scan.checkpoint])


def note_end(state: State, scan: Scan) -> None:
    """Write into the state that a scan has ended."""
    memory = scan.memory
    memory.covered_until = scan.checkpoint.started
    memory.covered_id = max(scan.checkpoint.highest_id, memory.covered_id or 0)
    if not scan.quick_since:
        memory.fingerprint = scan.checkpoint.fingerprint
        memory.highest_id = max(scan.checkpoint.highest_id, memory.highest_id or 0)
        memory.scan_by = CREATED_DATE if scan.checkpoint.by_created_date else None
    note_page(state, scan, None)
    if scan.is_incremental:
        state["scan"] = []
