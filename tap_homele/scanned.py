"""What reads the list: it scans it, by the cursor or by windows, and saves how far."""

from __future__ import annotations

import functools
import random
import typing as t
from datetime import date

from singer_sdk.exceptions import FatalAPIError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import RemoveRecordTransform
from singer_sdk.singerlib import RecordMessage
from singer_sdk.singerlib.catalog import REPLICATION_INCREMENTAL
from singer_sdk.streams.rest import HTTPRequest, PageContext

from tap_homele import records
from tap_homele.client import (
    HomeleStream,
    ServerError,
    TokenError,
    printable,
    server_time,
)
from tap_homele.pagination import CursorPaginator
from tap_homele.scan import Scan, fingerprint, local_time
from tap_homele.windows import CHECK_PAGE, Seen, Window, Windows

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    import requests
    from singer_sdk.helpers.types import Context

    from tap_homele.details import DetailStream


# The ways to read the list, as the setting ``scan_by`` and the state name them.
AUTO, CURSOR, CREATED_DATE = "auto", "cursor", "created_date"

# Details are read for so many customers at a time: for each time there is a SCHEMA.
DETAILS_AT_ONCE = 100
# A state is written after so many: less than what the API gives in a minute.
DETAILS_PER_STATE = 50
# If so many are asked for, and nobody has details, they are not all deleted.
MOST_GONE = 20


class DetailsError(FatalAPIError):
    """The details of a customer cannot be had; the list is none the worse for it."""


class CustomerStream(HomeleStream):
    """What the streams of customers have in common."""

    primary_keys: t.ClassVar[list[str]] = ["id"]

    # Records fit the schema already: there is nothing left for the SDK to conform.
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE

    # Whether the vendor says that there are fields whose names are not known.
    has_more_fields = False

    # The version to activate when the scan is closed.
    version: int | None = None

    @functools.cached_property
    def fitter(self) -> records.Fitter:
        """Makes records of rows, and warns of what does not fit."""

        def notice(field: str, customer_id: int) -> None:
            has_column = field.partition(".")[0] in self.schema["properties"]
            is_expected = self.has_more_fields and not has_column
            say = self.logger.info if is_expected else self.warn
            say(
                "'%s' %s, first in customer %d: it is kept in %s.",
                printable(field),
                "does not fit a column" if has_column else "has no column of its own",
                customer_id,
                records.ADDITIONAL,
            )

        config = self.config
        depth = config.get("flattening_enabled") and config.get("flattening_max_depth")
        return records.Fitter(self.schema, notice, flattened=bool(depth))

    @functools.cached_property
    def _is_whole(self) -> bool:
        """Whether all columns are selected."""
        return all(self.mask.values())

    def _generate_record_messages(
        self, record: records.Record
    ) -> t.Generator[RecordMessage, None, None]:
        """Make the messages for a record, without a walk through it.

        The SDK goes through each record for what is not selected, which takes a fifth
        of the time of a sync where all is. It has no public hook for it;
        ``test_whole_records`` fails when it no longer calls this one, or does more.
        """
        if not self._is_whole:
            yield from super()._generate_record_messages(record)
            return
        for stream_map in self.stream_maps:
            mapped = stream_map.transform(record)
            if mapped is not None:
                yield RecordMessage(
                    stream=stream_map.stream_alias,
                    record=mapped,
                    version=self._stream_version,
                    time_extracted=local_time(),
                )

    def activate_version(self) -> None:
        """Tell the target that whatever has another version is gone, if it is to."""
        if self.version is not None:
            super()._write_activate_version_message(self.version)

    def _write_activate_version_message(self, full_table_version: int) -> None:
        """Keep the version back until the scan is closed.

        The SDK calls this before the first record, and a target deletes on arrival:
        a run that fails would leave the table short. The SDK has no public hook for
        it; ``test_activate_version`` fails when it no longer calls this one.
        """
        if self.get_batch_config(self.config):
            self.warn(
                "Batches do not carry a version: no customer is marked as deleted."
            )
        else:
            self.version = full_table_version


class ScannedStream(CustomerStream):
    """A list of customers that is scanned."""

    _scan: Scan
    _paginator: CursorPaginator
    # The window of the created date that is read, None for the whole list.
    _window: Window | None = None
    # The windows that are left, where the list is read by them.
    _windows: Windows | None = None
    # How the list turned out to be read best: by the cursor, if that was checked, or by
    # created date; None, as long as that is not known.
    _way: str | None = None
    # Whom the cursor has shown, where that is to be checked.
    _seen: Seen | None = None
    # The last customer that an earlier run has read, where this one goes on.
    _resumed_after: tuple[str, int] | None = None
    # Whether an earlier run has read the beginning of the list.
    _goes_on = False
    # For the summary: what was compared, in words; how many pages and customers were
    # read, and how many sent on.
    _evidence = "not looked for"
    _pages = _read = _sent = 0
    # The customers of this run whose details were asked for, and who had none.
    _wanted_details = _wanted_and_gone = 0
    # Whether customers without a created date were seen.
    _undated = False
    # What a window shows that is asked for to check it, and whether that is not all.
    _shown: tuple[list[records.Record], bool] | None = None
    # The windows that are left, that which is read included.
    _windows_left: dict[str, t.Any] | None = None

    # What is asked for.

    @property
    def filters(self) -> dict[str, t.Any]:
        """The filters as the API knows them; None and empty lists are not sent."""
        raise NotImplementedError

    @property
    def asked(self) -> str:
        """The fingerprint of the list that is read, and of what is made of it.

        A table that is new is to have all customers, not only those that change.
        """
        tables: dict[str, t.Any] = {} if self.selected else {self.name: False}
        if self._child:
            tables[self._child.name] = True
        return fingerprint(self.url_base, self.filters | tables)

    def get_http_request(self, *, page: PageContext[str | None]) -> HTTPRequest:
        """Ask for a page of the list.

        Cursors hold neither the filters nor the size of a page (Laravel), so each
        request repeats them.

        Args:
            page: The cursor of the page, None for the first.
        """
        return HTTPRequest(
            url=f"{self.url_base}{self.path}",
            headers=self.http_headers,
            params={
                "per_page": CHECK_PAGE if self._shown else self.config["page_size"],
                **self._window_filters(),
                "cursor": page.next_page_token,
            },
        )

    def _window_filters(self) -> dict[str, t.Any]:
        """Give the filters, those of the created date narrowed to the window."""
        filters = self.filters
        if self._window is None:
            return filters
        first, last = self._window.asked
        for name, day, narrower in (
            ("filter[date_from]", first, max),
            ("filter[date_to]", last, min),
        ):
            if day is not None:
                ends = [day.isoformat(), filters[name]]
                filters[name] = narrower(filter(None, ends))
        return filters

    def get_new_paginator(self) -> CursorPaginator:
        """Begin a pass: over the list or a window of it, or over its head again."""
        scan, window = self._scan, self._window
        start = None if scan.over_head else scan.cursor
        one_page = window is not None and not window.by_cursor
        self._paginator = CursorPaginator(
            self.read_answer, start, enough=lambda: one_page or scan.enough
        )
        return self._paginator

    # The scan.

    @property
    def is_incremental(self) -> bool:
        """Whether there is a bookmark to keep."""
        return self.replication_method == REPLICATION_INCREMENTAL

    def start_from(self, state: dict[str, t.Any]) -> None:
        """Drop a bookmark that a scan cannot start from.

        Args:
            state: The state of this stream that the run begins with. It is changed.
        """
        if "replication_key_value" not in state:
            return
        setting, known = self.config["scan_by"], state.get("scan_by")
        bookmark = records.utc(state.pop("replication_key_value"))
        if bookmark is None:
            self.warn("The bookmark is not a time: reading all customers.")
        elif state.get("asked", self.asked) != self.asked:
            # Another list may have another cursor.
            state.pop("scan_by", None)
            self.warn(
                "The filters, the address or the streams are not those of the last "
                "run: reading all customers that match."
            )
        elif setting == CREATED_DATE != known:
            self.warn(
                "The list was not read by created date so far: reading all customers."
            )
        else:
            state["replication_key_value"] = bookmark

    def compare_start_date(self, value: str, start_date_value: str) -> str:
        """Let the bookmark stand: ``start_date`` is that of the first run only.

        The SDK would take the later of the two, and customers between them would
        never arrive.

        Args:
            value: The bookmark.
            start_date_value: The setting.
        """
        del start_date_value
        return value

    def get_replication_key_signpost(
        self,
        context: Context | None = None,  # noqa: ARG002
    ) -> None:
        """Set none yet: the SDK's is the local clock, the scan's is the server's.

        ``_note_progress`` sets that one, once an answer has told the server's time.
        """
        return

    def get_records(self, context: Context | None) -> Iterator[records.Record]:
        """Scan the list.

        Args:
            context: Not used: the stream has no partitions.

        Yields:
            Each customer that is wanted.

        Raises:
            FatalAPIError: If the list cannot be read to its end.
        """
        bookmark = self.get_starting_replication_key_value(context)
        self._scan = Scan(bookmark=records.utc(bookmark), asked=self.asked)
        self._resume()
        self._read_details()
        if self._windows is None:
            yield from self._read_by_cursor()
        if self._windows is not None:
            yield from self._read_by_windows(self._windows)
        self._read_details()
        self._close()

    def _read_pass(self) -> Iterator[records.Record]:
        """Read the list, or a window of it, from where the scan begins to its end."""
        yield from super().get_records(None)

    def _read_by_cursor(self) -> Iterator[records.Record]:
        """Read the list by its cursor, until it is closed.

        If the cursor turns out to hide customers, or fails, ``_windows`` is set.
        """
        try:
            try:
                yield from self._read_pass()
            except (TokenError, DetailsError):
                raise
            except FatalAPIError as error:
                # A cursor that always fails must not hold up every run to come.
                if not self._scan.resumed or self._scan.pages:
                    raise
                self._restart(f"its next page cannot be read ({error})")
                yield from self._read_pass()
            while self._scan.reopen():
                yield from self._read_pass()
            self._tell_if_open()
        except ServerError:
            if self.config["scan_by"] != AUTO or not self._scan.pages:
                raise
            self._leave_the_cursor("Homele fails to follow its own cursor.")
        else:
            self._check_the_cursor()

    def _tell_if_open(self) -> None:
        if not self._scan.by_last_activity:
            self.warn(
                "The list does not run by last activity, as it was expected to: "
                "customers that moved while it was read could not be looked for."
            )
        elif not self._scan.closed:
            self.warn(
                "Customers move in the list faster than it can be read: some may "
                "come with the next run only."
            )

    def _read_by_windows(self, windows: Windows) -> Iterator[records.Record]:
        """Read the list by windows of the created date, until none is left."""
        windows.undated = windows.undated or self._undated
        while window := windows.next(self._today):
            self._window, self._windows_left = window, windows.checkpoint()
            self._scan = self._scan.within()
            try:
                yield from self._read_pass()
                customers = self._scan.customers
                while self._scan.reopen():
                    yield from self._read_pass()
            except ServerError:
                if not window.by_cursor or not self._scan.pages:
                    raise
                customers = self._scan.customers
                windows.cut_off.append(str(window))
            if window.by_cursor:
                # Whom the cursor hides here, nobody can tell.
                windows.too_full.append(str(window))
                self.warn(
                    "More customers were created on %s than fit on a page: %d were "
                    "read by the cursor, which may hide others.",
                    window,
                    customers,
                )
            windows.undated = windows.undated or self._undated
            self._save(self._scan.checkpoint(None, windows.checkpoint()))
        self._scan.closed = not (windows.too_full or windows.undated)
        if windows.undated:
            self.warn(
                "There are customers without a created date, which no window holds: "
                "some may not have been read. Tell Homele's support."
            )
        self._evidence = f"{len(windows.too_full)} days did not fit on a page"
        if windows.cut_off:
            self._read_details()
            # Whose details were asked for stays known, but all is read anew.
            again = Windows(self.config["page_size"])
            self._save(self._scan.checkpoint(None, again.checkpoint()))
            raise FatalAPIError(
                f"Of those created on {', '.join(windows.cut_off)} more follow, and "
                "Homele fails to follow its own cursor to them. All others were read. "
                "Tell Homele's support; until it is mended, each run ends like this."
            )

    @property
    def _today(self) -> date:
        return date.fromisoformat((self._scan.started or local_time().isoformat())[:10])

    def _check_the_cursor(self) -> None:
        """Compare what the cursor has shown with windows of the created date."""
        scan, seen = self._scan, self._seen
        one_page = not scan.rounds and scan.pages <= 1
        if seen is None or (one_page and not scan.resumed):
            return
        if scan.resumed and not scan.by_last_activity:
            self._way = None
            return
        # Of a scan that was resumed, what the earlier run has read is left out; so the
        # next run asks the whole question.
        seen.edge, seen.nulls_first = self._resumed_after, scan.nulls_first
        self._way = None if scan.resumed else CURSOR
        dice = random.Random(scan.started)  # noqa: S311
        checked = 0
        for window in seen.windows(dice):
            self._window, self._shown = window, ([], False)
            filters = self._window_filters()
            first, last = filters["filter[date_from]"], filters["filter[date_to]"]
            if first and last and first > last:
                continue  # the filters leave nothing of it
            try:
                for _ in self._read_pass():
                    pass
            except TokenError:
                raise
            except FatalAPIError as error:
                self._way = None
                scan.closed = False
                self._evidence = "could not be looked for"
                self.warn(
                    "Whether the cursor hides customers could not be checked: %s", error
                )
                break
            page, more = self._shown
            checked += len(page)
            if seen.lacks(window, page, more=more, before=scan.signpost or ""):
                self._leave_the_cursor(
                    f"Customers created from {window} are missing from the list that "
                    "the cursor leads through."
                )
                break
        else:
            self._evidence = f"none among {checked} of sampled days"
            self._tell_what_is_unchecked(seen, checked)
        self._window = self._shown = None

    def _tell_what_is_unchecked(self, seen: Seen, checked: int) -> None:
        unchecked = seen.unchecked()
        if unchecked:
            self._scan.closed = False
            if not checked:
                self._way = None
            self.warn(
                "Whether the cursor hides customers cannot be told of days on which "
                "more were created than fit on a page: up to %d may be missing there. "
                "If Homele has shown you all of them, set scan_by to cursor.",
                unchecked,
            )

    def _leave_the_cursor(self, reason: str) -> None:
        """Go on by windows of the created date, in this run and in later ones."""
        self.warn(
            "%s Reading all customers by windows of the created date instead, from "
            "now on.",
            reason,
        )
        self._windows = Windows(self.config["page_size"])
        self._way = CREATED_DATE
        # Those that were hidden can have changed at any time.
        self._scan = self._scan.within()
        self._scan.bookmark = records.utc(self.config.get("start_date"))
        self._save(self._scan.checkpoint(None, self._windows.checkpoint()))

    def parse_response(self, response: requests.Response) -> Iterator[records.Record]:
        """Give the customers of a page, and save the progress after them.

        Args:
            response: An answer that was validated.

        Yields:
            Each customer of the page that is wanted.

        Raises:
            FatalAPIError: If the page does not say what follows it.
        """
        scan = self._scan
        page = self._fitted(super().parse_response(response))
        if self._shown:
            self._shown = page, self._paginator.next_cursor(response) is not None
            return
        self._look_where_it_is(page)
        scan.begin_page(server_time(response), page)
        if self._seen:
            self._seen.add(page)
        if not scan.over_head:
            self._pages += 1
            self._read += len(page)
        self._undated |= any(record["created_at"] is None for record in page)
        has_details, owed = self._child is not None, scan.details.owed
        scan.details.look_for(page)
        for record in filter(scan.sees, page):
            self._sent += 1
            # The SDK takes the columns out of it that are not selected.
            customer_id = record["id"]
            lacks_details = has_details and self._lacks_details(record)
            yield record
            if lacks_details:
                owed[customer_id] = True
        # The SDK has written all of the page's records when it asks for more.
        next_cursor = self._paginator.next_cursor(response)
        self._end_page(page, next_cursor)
        if len(owed) >= DETAILS_AT_ONCE:
            self._read_details()

    def _look_where_it_is(self, page: list[records.Record]) -> None:
        """Say so if a page is not the one that a resumed scan has asked for."""
        if page and not self._scan.follows(page[0]):
            # Whatever page it is, all that follows is read, and what was carried over
            # from the earlier run only makes the bookmark older.
            self.logger.info(
                "Homele answered with the first page of the list: the scan that was "
                "interrupted is read from the top."
            )

    def _end_page(self, page: list[records.Record], next_cursor: str | None) -> None:
        """Count a page, and save that it was read."""
        scan = self._scan
        if scan.resuming and not page and next_cursor is None:
            raise FatalAPIError("the list ended there")
        first_page = not scan.pages and not scan.over_head
        scan.end_page()
        if self._windows is not None:
            if first_page:
                more = next_cursor is not None
                self._windows.answered(page, more=more, today=self._today)
            return
        # The last page adds nothing to go on with. If it is the only one, it still has
        # to be said that a scan, which may be a full refresh, has not ended.
        begun = self.get_context_state(None).get("scan")
        goes_on = not scan.over_head and (next_cursor or not begun)
        self._save(scan.checkpoint(next_cursor) if goes_on else None)

    # The details.

    @functools.cached_property
    def _child(self) -> DetailStream | None:
        """The stream of details, if it is selected."""
        child = next(iter(self.child_streams), None)
        return t.cast("DetailStream", child) if child and child.selected else None

    def generate_child_contexts(
        self,
        record: records.Record,  # noqa: ARG002
        context: Context | None,  # noqa: ARG002
    ) -> Iterator[Context]:
        """Give none: the details are read for many customers at a time.

        The SDK would write a SCHEMA, a STATE and two metrics for every single one.
        """
        return iter(())

    def _lacks_details(self, record: records.Record) -> bool:
        """Tell whether to ask for the details of a customer that is sent on."""
        stream_map = self.stream_maps[0]
        # Where a stream map takes the list away, nobody is filtered out.
        is_filtered_out = not isinstance(
            stream_map, RemoveRecordTransform
        ) and not stream_map.get_filter_result(record)
        return not is_filtered_out and self._scan.lacks_details(record)

    def _read_details(self) -> None:
        """Ask for the details of those who are owed, and save the progress."""
        details, child = self._scan.details, self._child
        if child is None or not details.owed:
            return

        def answered(customer_id: int, *, is_gone: bool) -> None:
            is_wanted = details.owed[customer_id]
            (details.miss if is_gone else details.add)(customer_id)
            if is_wanted:
                self._count_details(is_gone=is_gone)
            if child.asked % DETAILS_PER_STATE == 0:
                self._save_details()

        try:
            child.read([*details.owed], answered)
        except FatalAPIError as error:
            raise DetailsError(str(error)) from None
        self._save_details()

    def _count_details(self, *, is_gone: bool) -> None:
        """End the run if nobody has details who was in the list a moment ago."""
        self._wanted_details += 1
        self._wanted_and_gone += is_gone
        if self._wanted_and_gone == self._wanted_details == MOST_GONE:
            raise FatalAPIError(
                f"Homele has no details of any of the first {MOST_GONE} customers, who "
                "are in its list. Run the tap again; if it stays so, set "
                "customer_details to false, and tell Homele's support."
            )

    def _save_details(self) -> None:
        """Save whose details were sent on, where the list would go on as before."""
        (checkpoint,) = self.get_context_state(None).get("scan") or [
            self._scan.checkpoint(None, self._windows_left)
        ]
        self._save(checkpoint | {"details": self._scan.details.state()})

    def _fitted(self, rows: t.Iterable[t.Any]) -> list[records.Record]:
        """Make records of the rows of a page."""
        page: list[records.Record] = []
        try:
            page.extend(map(self.fitter.fit, rows))
        except records.MisfitError as reason:
            raise FatalAPIError(
                f"Page {self._paginator.count + 1} of the list: row {len(page) + 1} "
                f"{reason}, so it cannot be stored. Stopped, because a customer would "
                "be missing. Tell Homele's support."
            ) from None
        if self._window and self._window.strays(page):
            raise FatalAPIError(
                "Homele was asked for customers created in certain days, and answered "
                "with others. Set scan_by to cursor, and tell Homele's support."
            )
        return page

    def _resume(self) -> None:
        """Go on with an interrupted scan, if the state has one that fits."""
        state = self.get_context_state(None)
        checkpoints = state.pop("scan", None)
        self._choose_the_way(state)
        if self.is_incremental:
            # When the SDK makes them itself, it warns that it cannot resume.
            state.setdefault("progress_markers", {})
        if checkpoints and not self.is_incremental:
            self._restart("a full table is always read from the top")
        elif checkpoints:
            try:
                self._scan.resume(checkpoints)
                if (self._scan.windows is None) != (self._windows is None):
                    raise ValueError("it read the list in another way")  # noqa: TRY301
                if self._windows is not None:
                    left = self._scan.windows
                    self._windows = Windows.resume(self.config["page_size"], left)
            except ValueError as reason:
                self._restart(str(reason))
            else:
                # Until there is another: the last page, and the head, give none.
                state["scan"] = checkpoints
                self._resumed_after = self._scan.edge
                self._goes_on = True
                self.logger.info(
                    "Going on with the scan of %s, which was interrupted.",
                    self._scan.started,
                )
        if not self._goes_on:
            missing = [k for k in state.get("missing") or () if isinstance(k, int)]
            self._scan.details.missing.update(dict.fromkeys(missing, False))

    def _choose_the_way(self, state: dict[str, t.Any]) -> None:
        """Decide how to read, by the setting and by what earlier runs found."""
        setting, page_size = self.config["scan_by"], self.config["page_size"]
        if setting == AUTO:
            self._way = state.get("scan_by")
        elif setting == CREATED_DATE:
            self._way = CREATED_DATE
        if self._way == CREATED_DATE:
            self._windows = Windows(page_size)
        elif setting == AUTO:
            since = None
            if self._way and self._scan.bookmark:
                # Fresh imports are what would hide.
                since = date.fromisoformat(self._scan.bookmark[:10])
            self._seen = Seen(since)

    def _restart(self, reason: str) -> None:
        self.logger.info(
            "Not going on with the scan that was interrupted: %s. Reading from the "
            "top of the list.",
            reason,
        )
        self._scan = self._scan.within()
        self._resumed_after, self._goes_on = None, False

    def _save(self, checkpoint: dict[str, t.Any] | None) -> None:
        """Write how far the scan has come, after a page or a window.

        The shape of the state is the SDK's: when a sync ends, the newest value in
        ``progress_markers``, cut to the signpost, becomes the bookmark. ``scan`` is the
        tap's own, a list of one checkpoint, and so is ``asked``, the fingerprint of the
        list that the bookmark is for.

        Args:
            checkpoint: Where a later run goes on, None for where it did before.
        """
        if not self.is_incremental:
            return
        batches = self.get_batch_config(self.config)
        if batches and self._child:
            # The SDK writes a state with each batch of details, when customers that
            # came before them wait in a batch that is not full yet.
            checkpoint = None
        self._note_progress()
        if checkpoint:
            self.get_context_state(None)["scan"] = [checkpoint]
        # A batch that is not full yet is not written yet: there the SDK writes the
        # state, after each batch.
        if not batches:
            self._tap.state_writer.write_state(self.tap_state)

    def _note_progress(self) -> None:
        """Put into the state what the SDK makes the bookmark of."""
        scan = self._scan
        state = self.get_context_state(None)
        # Also where it is None: Meltano merges the states of a full refresh, which asks
        # the question anew, key by key.
        state["scan_by"] = self._way
        state["replication_key_signpost"] = scan.signpost
        markers = state.setdefault("progress_markers", {})
        # A customer that is wanted for its activity alone may have been updated long
        # ago, and must not take the bookmark back.
        if newest := max(filter(None, (scan.newest, scan.bookmark)), default=None):
            markers["replication_key"] = self.replication_key
            markers["replication_key_value"] = newest

    def _close(self) -> None:
        """Finish: nothing of the scan stays in the state but the bookmark.

        ``scan`` becomes empty, and is not left out: Meltano merges the states of a full
        refresh key by key. For the same reason it is a list, which is replaced whole.
        """
        scan, state = self._scan, self.get_context_state(None)
        state["scan_by"] = self._way
        if self.is_incremental:
            # A run that had nothing left to read has not noted it yet.
            self._note_progress()
            state.update(scan=[], asked=scan.asked)
            self._keep_the_missing(state)
        if not self.is_incremental and self.emit_activate_version_messages:
            self._activate_versions()
        self._summarize()

    def _keep_the_missing(self, state: dict[str, t.Any]) -> None:
        """Let the next run ask again for those without details who are in the list."""
        if self._child is None:
            return
        missing = self._scan.details.missing
        # Whom an earlier run has missed, and a whole list has not shown, was deleted.
        state["missing"] = [k for k, new in missing.items() if new or self._goes_on]
        if new := sum(missing.values()):
            self.warn(
                "Homele has no details of %d customers: they were deleted, or the "
                "token may not see them. The next run asks again for those who are "
                "still in the list.",
                new,
            )

    def _activate_versions(self) -> None:
        if not self._scan.closed:
            self.warn("So no customer is marked as deleted in this run.")
            return
        self.activate_version()
        if self._child:
            # Its table is to be emptied too, where the list is empty.
            self._child.read([], lambda *_, **__: None)
            if self._scan.details.missing:
                self.warn("So no details are marked as deleted in this run.")
            else:
                self._child.activate_version()

    def _summarize(self) -> None:
        """Say in one line what this run has done."""
        scan = self._scan
        ends = [at for at in (scan.newest, scan.bookmark) if at]
        bookmark = min(max(ends), scan.signpost or "") if ends else "none"
        child = self._child
        if child:
            self.logger.info(
                "Details sent: %d. Customers without details: %d.",
                child.asked - child.gone,
                child.gone,
            )
        streams: list[HomeleStream] = [self, child] if child else [self]
        self.logger.info(
            "Read %d customers on %d pages, sent %d, by %s: %d requests, %d waits "
            "(%.0f s), %d warnings. The scan is %s. Hidden customers: %s. "
            "Bookmark: %s.",
            self._read,
            self._pages,
            self._sent,
            "created date" if self._windows else "cursor",
            sum(stream.requests_sent for stream in streams),
            sum(stream.waits for stream in streams),
            sum(stream.seconds_waited for stream in streams),
            sum(stream.warnings for stream in streams),
            "closed" if scan.closed else "not closed",
            self._evidence,
            bookmark if self.is_incremental else "none, it is a full table",
        )
