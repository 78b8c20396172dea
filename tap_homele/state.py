"""The tap's own part of the state of the stream: read, checked, written.

The bookmark is the SDK's: when a sync ends, the value in ``progress_markers``, cut to the
signpost, becomes ``replication_key_value``. What stands beside it is typed here. What may
be missing is a list of at most one, emptied instead of removed, because Meltano merges
states key by key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import typing as t
from datetime import date

import msgspec

from tap_homele.records import utc
from tap_homele.sync.crosscheck import CrossCheck, Round
from tap_homele.sync.scan import Checkpoint, Moment, Page, Scan, StaleCheckpointError

State = dict[str, t.Any]

# The setting ``scan_by``, and its values.
AUTO, CREATED_DATE = "auto", "created_date"

logger = logging.getLogger(__name__)


class FullScan(msgspec.Struct, kw_only=True):
    """What the last full scan has left.

    Attributes:
        fingerprint: Of the list that the bookmark is for.
        full_scan_started: When it began.
        highest_id: The highest id that it saw.
        scan_by: ``created_date``, once the cursor has skipped customers.
        margins: As in ``Scan``.
        cross_check: The round of the cross-check.
    """

    fingerprint: str | None = None
    full_scan_started: Moment | None = None
    highest_id: int | None = None
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


def start_scan(
    state: State, first: Scan, scan_by: str, *, is_incremental: bool
) -> tuple[Scan, FullScan]:
    """Decide from where a run reads: its bookmark, its way, its checkpoint.

    Args:
        state: The state of the stream. A checkpoint that does not fit is removed.
        first: The scan as a first run would start it.
        scan_by: The setting.
        is_incremental: Whether there is a bookmark, and a checkpoint to resume from.

    Returns:
        The scan of this run, and what the last full scan has left.
    """
    last = read_full_scan(state)
    bookmark = state.get("replication_key_value") if is_incremental else None
    reason = ""
    if last.fingerprint not in {None, first.fingerprint}:
        last = FullScan()
        reason = (
            "The filters, the address or the streams are not those of the last run: "
            "reading all customers that match."
        )
    elif scan_by == CREATED_DATE != last.scan_by:
        reason = "The list was not read by created date so far: reading all customers."
    elif not utc(bookmark):
        reason = "The bookmark is not a time: reading all customers."
    if bookmark and reason:
        logger.warning(reason)
    scan = dataclasses.replace(
        first,
        bookmark=first.first_bookmark if reason else utc(bookmark),
        known_id=last.highest_id,
        by_created_date=CREATED_DATE in {scan_by, scan_by == AUTO and last.scan_by},
        margins=last.margins,
    )
    if is_incremental:
        # Without it the SDK warns that it cannot resume.
        state.setdefault("progress_markers", {})
    if state.get("scan"):
        try:
            resume(scan, state["scan"], scan_by, is_incremental=is_incremental)
        except StaleCheckpointError as error:
            del state["scan"]
            logger.info(
                "Not resuming the scan that was interrupted: %s. Reading from the top "
                "of the list.",
                error,
            )
    return scan, last


def to_date(day: str | None) -> date | None:
    """Read a day of a setting."""
    return date.fromisoformat(day) if day else None


def read_full_scan(state: State) -> FullScan:
    """Read what the last full scan has left; nothing, if it is unreadable."""
    # What version 0.1.0 wrote.
    state.pop("missing", None)
    known = {"fingerprint": state.pop("asked", None)} | state
    try:
        return msgspec.convert(known, FullScan)
    except msgspec.ValidationError:
        logger.info("The state is of another shape: only its bookmark is used.")
        return FullScan()


def resume(
    scan: Scan, checkpoints: t.Any, scan_by: str, *, is_incremental: bool
) -> None:
    """Resume a scan from the state.

    Raises:
        StaleCheckpointError: If it must be read from the top.
    """
    if not is_incremental:
        raise StaleCheckpointError("a full table is always read from the top")
    try:
        (checkpoint,) = msgspec.convert(checkpoints, list[Checkpoint])
    except ValueError:
        raise StaleCheckpointError("its checkpoint is unreadable") from None
    scan.by_created_date |= scan_by == AUTO and checkpoint.by_created_date
    scan.resume(checkpoint)
    logger.info("Resuming the scan of %s, which was interrupted.", checkpoint.started)


def note_page(
    state: State, scan: Scan, check: CrossCheck | None, page: Page | None
) -> None:
    """Write into the state what stands after a page.

    Args:
        state: The state of the stream.
        scan: The scan, after the page.
        check: Its cross-check.
        page: The page; None, if no run can resume after it.
    """
    state["margins"] = scan.margins
    if check and check.round:
        state["cross_check"] = [msgspec.to_builtins(check.round)]
    # What the SDK makes the bookmark of.
    state["replication_key_signpost"] = scan.signpost
    markers = state.setdefault("progress_markers", {})
    if scan.newest:
        markers["replication_key"] = "updated_at"
        markers["replication_key_value"] = scan.newest
    # The last page leads nowhere, so the checkpoint before it stays. Where it is the only
    # one, the state must still say that a scan, a full refresh say, has not ended.
    if page and (page.next_cursor or page.created_before or not state.get("scan")):
        state["scan"] = [msgspec.to_builtins(scan.checkpoint(page))]


def note_end(
    state: State, scan: Scan, check: CrossCheck | None, *, is_incremental: bool
) -> None:
    """Write into the state that a scan has ended."""
    if is_incremental:
        note_page(state, scan, check, None)
        state["scan"] = []
    ended = FullScan(
        fingerprint=scan.fingerprint,
        full_scan_started=scan.progress.started,
        highest_id=max(scan.progress.highest_id, scan.known_id or 0),
        scan_by=CREATED_DATE if scan.by_created_date else None,
        margins=scan.margins,
        cross_check=[check.round] if check and check.round else [],
    )
    state |= msgspec.to_builtins(ended)
