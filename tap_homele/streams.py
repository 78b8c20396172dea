"""The streams, as they are declared in the catalog."""

from __future__ import annotations

import functools
import itertools
import random
import typing as t
from collections import deque
from datetime import date
from http import HTTPStatus
from time import monotonic

from singer_sdk import typing as th
from singer_sdk.exceptions import FatalAPIError
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.singerlib.catalog import REPLICATION_INCREMENTAL
from singer_sdk.streams.rest import HTTPRequest, PageContext

from tap_homele import records
from tap_homele.client import (
    HomeleStream,
    ServerError,
    TokenError,
    in_background,
    is_gone,
    printable,
    server_time,
)
from tap_homele.pagination import CursorPaginator
from tap_homele.scan import Scan, fingerprint, local_time, mark
from tap_homele.windows import CHECK_PAGE, Seen, Window, Windows

if t.TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    import requests
    from singer_sdk.helpers.types import Context


# The ways to read the list, as the setting ``scan_by`` and the state name them.
AUTO, CURSOR, CREATED_DATE = "auto", "cursor", "created_date"

# A state is written after so many details: a third of what the API gives in a minute.
DETAILS_PER_STATE = 20
# Of so many customers that may come again it is kept that theirs were sent on.
DETAILS_KEPT = 1000
# If so many have no details, and nobody has, they are not all deleted.
MOST_GONE = 20

# The budget is a request a second. Where an answer takes longer than this, in seconds,
# another connection is used, up to so many.
QUICK = 0.8
MOST_CONNECTIONS = 5
# How often it is said how far the details are, in seconds.
REPORT_EVERY = 60


def related_object(name: str, description: str) -> th.Property[t.Any]:
    """Declare a reference to another object of the CRM, ``{id, name}`` or null."""
    return th.Property(
        name,
        th.ObjectType(
            th.Property("id", th.IntegerType, description="Its number in Homele."),
            th.Property("name", th.StringType, description="Its name in Homele."),
        ),
        description=description,
    )


# What the list says of a customer. All but the key may be null, also where the vendor
# says otherwise: one odd customer must not keep all others out.
COLUMNS: t.Final[tuple[th.Property[t.Any], ...]] = (
    th.Property(
        "id",
        th.IntegerType,
        required=True,
        description="The customer's number in Homele, unique in a company.",
    ),
    th.Property(
        "sequential_number",
        th.IntegerType,
        description="The running number that people see in Homele.",
    ),
    th.Property("name", th.StringType, description="The full name."),
    th.Property("first_name", th.StringType, description="The first name."),
    th.Property("last_name", th.StringType, description="The last name."),
    th.Property("phone1", th.StringType, description="The main phone number."),
    th.Property("phone2", th.StringType, description="A second phone number."),
    th.Property("phone3", th.StringType, description="A third phone number."),
    th.Property("email1", th.StringType, description="The e-mail address."),
    th.Property("address", th.StringType, description="The postal address."),
    th.Property(
        "budget",
        th.SingerDecimalType,
        description="What the customer can spend, a decimal written as text.",
    ),
    th.Property(
        "budget_currency",
        th.StringType,
        description="The currency of the budget, such as USD.",
    ),
    th.Property(
        "expected_sale_date",
        th.DateType,
        description="The day on which a sale is expected.",
    ),
    related_object("lead_status", "How far the sale has come."),
    related_object("lead_source", "Where the customer came from."),
    related_object("owner", "The user of Homele who looks after the customer."),
    related_object("priority", "How urgent the customer is."),
    related_object("country", "The customer's country."),
    related_object("city", "The customer's city."),
    th.Property(
        "created_at",
        th.DateTimeType,
        description="When the customer was entered, in UTC.",
    ),
    th.Property(
        "updated_at",
        th.DateTimeType,
        description="When the customer was last edited, in UTC.",
    ),
    th.Property(
        "last_activity_at",
        th.DateTimeType,
        description="When something last happened with the customer, in UTC.",
    ),
)

# What only the details say, and is known by name. Another becomes a column by a line.
DETAIL_COLUMNS: t.Final[tuple[th.Property[t.Any], ...]] = (
    th.Property("occupation", th.StringType, description="What the customer does."),
)

ADDITIONAL: t.Final = th.Property(
    records.ADDITIONAL,
    # The SDK would flatten an empty list of properties to nothing.
    th.CustomType({"type": ["object", "null"]}),
    description=("What Homele sent and no column can hold, by the name of the field."),
)


class CustomerStream(HomeleStream):
    """What both streams of customers have in common."""

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
            is_expected = (
                self.has_more_fields and field not in self.schema["properties"]
            )
            say = self.logger.info if is_expected else self.warn
            say(
                "'%s' does not fit a column, first in customer %d: it is kept in %s.",
                printable(field),
                customer_id,
                records.ADDITIONAL,
            )

        flattened = bool(self.config.get("flattening_enabled"))
        return records.Fitter(self.schema, notice, flattened=flattened)

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


class CustomersStream(CustomerStream):
    """The customers of a company."""

    name = "customers"
    path = "/customers"
    replication_key = "updated_at"
    schema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        *COLUMNS, ADDITIONAL
    ).to_dict()

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
    # For the summary: what was compared, in words; how many pages and customers were
    # read, and how many sent on.
    _evidence = "not looked for"
    _pages = _read = _sent = 0
    # How many customers without a created date were seen.
    _undated = 0
    # What a window shows that is asked for to check it, and whether that is not all.
    _shown: tuple[list[records.Record], bool] | None = None
    # The customers whose details were sent on, and that may come again: id and mark.
    _details: dict[str, str]
    _in_the_head: set[str]
    # Those of the page that a later run begins with.
    _kept: dict[str, str]
    # The windows that are left, that which is read included.
    _windows_left: dict[str, t.Any] | None = None
    # Whether it is the details that fail, if something fails.
    _reading_details = False
    # The page that a later run begins with, while details are read: its cursor, and the
    # last customer before it.
    _page: tuple[str | None, tuple[str, int] | None] = (None, None)

    # What is asked for.

    @property
    def filters(self) -> dict[str, t.Any]:
        """The filters as the API knows them; None and empty lists are not sent."""
        config = self.config
        return {
            "filter[query]": config.get("filter_query") or None,
            "filter[lead_status.id][]": config.get("filter_lead_status_ids") or None,
            "filter[owner.id][]": config.get("filter_owner_ids") or None,
            "filter[lead_source.id][]": config.get("filter_lead_source_ids") or None,
            "filter[priority.id]": config.get("filter_priority_id"),
            "filter[date_from]": config.get("filter_created_from"),
            "filter[date_to]": config.get("filter_created_to"),
        }

    @property
    def asked(self) -> str:
        """The fingerprint of the list that is read, and of what is asked for with it.

        Details that are new are those of all customers, not only of those that change.
        """
        details = {"customer_details": True} if self._child else {}
        return fingerprint(self.url_base, self.filters | details)

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

        ``_save`` sets that one, once the first answer has told the server's time.
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
        self._details = self._scan.details
        self._in_the_head, self._kept = set(self._details), {}
        if self._windows is None:
            yield from self._read_by_cursor()
        if self._windows is not None:
            yield from self._read_by_windows(self._windows)
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
            except TokenError:
                raise
            except FatalAPIError as error:
                # A cursor that always fails must not hold up every run to come.
                if self._reading_details or not self._scan.resumed or self._scan.pages:
                    raise
                self._restart(f"its next page cannot be read ({error})")
                yield from self._read_pass()
            while self._scan.reopen():
                yield from self._read_pass()
            self._tell_if_open()
        except ServerError:
            if self.config["scan_by"] != AUTO or not self._scan.pages:
                raise
            if self._reading_details:
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
        too_full: list[str] = []
        cut_off: list[str] = []
        while window := windows.next(self._today):
            self._window, self._windows_left = window, windows.checkpoint()
            self._scan = self._scan.within()
            try:
                yield from self._read_pass()
                customers = self._scan.customers
                while self._scan.reopen():
                    yield from self._read_pass()
            except ServerError:
                if (
                    self._reading_details
                    or not window.by_cursor
                    or not self._scan.pages
                ):
                    raise
                customers = self._scan.customers
                cut_off.append(str(window))
            if window.by_cursor:
                # Whom the cursor hides here, nobody can tell.
                too_full.append(str(window))
                self.warn(
                    "More customers were created on %s than fit on a page: %d were "
                    "read by the cursor, which may hide others.",
                    window,
                    customers,
                )
            checkpoint = windows.checkpoint()
            self._save(self._scan.checkpoint(None, checkpoint, self._latest))
        self._scan.closed = not (too_full or self._undated)
        if self._undated:
            self.warn(
                "There are customers without a created date, which no window holds: "
                "some may not have been read. Tell Homele's support."
            )
        self._evidence = f"{len(too_full)} days did not fit on a page"
        if cut_off:
            self._give_up(
                f"Of those created on {', '.join(cut_off)} more follow, and Homele "
                "fails to follow its own cursor to them. All others were read. Tell "
                "Homele's support; until it is mended, each run ends like this."
            )

    def _give_up(self, sentence: str) -> t.NoReturn:
        """End with an error, though nothing is left to go on with."""
        state = self.get_context_state(None)
        state["scan"] = []
        self._save(None)
        raise FatalAPIError(sentence)

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
        checkpoint = self._windows.checkpoint()
        self._save(self._scan.checkpoint(None, checkpoint, self._latest))

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
        if self._window and self._window.strays(page):
            raise FatalAPIError(
                "Homele was asked for customers created in certain days, and answered "
                "with others. Set scan_by to cursor, and tell Homele's support."
            )
        if self._shown:
            self._shown = page, self._paginator.next_cursor(response) is not None
            return
        if page and not scan.follows(page[0]):
            # Whatever page it is, all that follows is read, and what was carried over
            # from the earlier run only makes the bookmark older.
            self.logger.info(
                "Homele answered with the first page of the list: the scan that was "
                "interrupted is read from the top."
            )
        scan.begin_page(server_time(response), page)
        if self._seen:
            self._seen.add(page)
        if not scan.over_head:
            self._pages += 1
            self._read += len(page)
        self._undated += sum(record["created_at"] is None for record in page)
        edge = scan.edge
        wanted: dict[str, str] = {}
        for record in filter(scan.sees, page):
            self._sent += 1
            # Before the SDK takes the columns out of it that are not selected.
            self._note_for_details(record, wanted)
            yield record
        # The SDK has written all of the page's records when it asks for more.
        next_cursor = self._paginator.next_cursor(response)
        if scan.resuming and not page and next_cursor is None:
            raise FatalAPIError("the list ended there")
        self._read_details(self._held(wanted, page, next_cursor), edge)
        first_page = not scan.pages and not scan.over_head
        scan.end_page()
        if self._windows is not None:
            if first_page:
                more = next_cursor is not None
                self._windows.answered(page, more=more, today=self._today)
            return
        self._end_page(next_cursor)

    def _end_page(self, next_cursor: str | None) -> None:
        """Save that a page was read by the cursor."""
        scan = self._scan
        # The last page adds nothing to go on with. If it is the only one, it still has
        # to be said that a scan, which may be a full refresh, has not ended.
        begun = self.get_context_state(None).get("scan")
        if next_cursor and not scan.over_head and self._seen is None:
            # If the cursor turns out to hide customers, all of them come again.
            self._details = {
                k: v for k, v in self._details.items() if k in self._in_the_head
            }
        goes_on = not scan.over_head and (next_cursor or not begun)
        checkpoint = scan.checkpoint(next_cursor, details=self._recent)
        self._save(checkpoint if goes_on else None)

    @property
    def _child(self) -> CustomerDetailsStream | None:
        """The stream of details, if it is selected."""
        child = next(iter(self.child_streams), None)
        return (
            t.cast("CustomerDetailsStream", child) if child and child.selected else None
        )

    def generate_child_contexts(
        self,
        record: records.Record,  # noqa: ARG002
        context: Context | None,  # noqa: ARG002
    ) -> Iterator[Context]:
        """Give none: the details are read after each page, not after each customer.

        The SDK would write a SCHEMA, a STATE and two metrics for every single one.
        """
        return iter(())

    def _note_for_details(self, record: records.Record, wanted: dict[str, str]) -> None:
        if self._child and self.stream_maps[0].get_filter_result(record):
            customer_id = str(record["id"])
            wanted[customer_id] = mark(record)
            if self._scan.may_come_again(record):
                self._in_the_head.add(customer_id)

    def _held(
        self,
        wanted: dict[str, str],
        page: list[records.Record],
        next_cursor: str | None,
    ) -> dict[str, str]:
        """Give whom no shorter window will hold, where this one is to be divided."""
        if next_cursor is None or self._window is None or self._window.by_cursor:
            return wanted
        dated = {str(record["id"]) for record in page if record["created_at"]}
        return {k: v for k, v in wanted.items() if k not in dated}

    def _read_details(
        self, wanted: dict[str, str], edge: tuple[str, int] | None
    ) -> None:
        """Ask for the details of the customers of a page that were sent on.

        Args:
            wanted: The customers, by the id as text, each with its mark.
            edge: The last customer before the page.
        """
        left = {k: v for k, v in wanted.items() if self._details.get(k) != v}
        if self._child is None or not left:
            return
        if not self._scan.over_head:
            self._page = self._paginator.current_value, edge
        # A window is read from its beginning again, and so all of its pages are.
        goes_on = self._scan.over_head or (self._windows and self._scan.pages)
        kept = self._kept if goes_on else self._recent

        def save() -> None:
            cursor, edge = (None, None) if self._windows else self._page
            windows = self._windows_left if self._windows else None
            done = wanted.keys() & self._details.keys()
            self._kept = kept | {k: self._details[k] for k in done}
            self._save(self._scan.checkpoint(cursor, windows, self._kept, edge))

        def sent(customer_id: str) -> None:
            self._details.pop(customer_id, None)
            self._details[customer_id] = left[customer_id]
            if self._child and self._child.asked % DETAILS_PER_STATE == 0:
                save()

        # The SDK writes states of its own meanwhile. Without a checkpoint in them, a
        # full refresh that is interrupted would look as if it had not begun.
        save()
        self._reading_details = True
        self._child.read([*left], sent)
        self._reading_details = False
        save()

    @property
    def _recent(self) -> dict[str, str]:
        """Those that the head of the list will hold again, as the state keeps them."""
        recent = [k for k in self._details if k in self._in_the_head]
        return {k: self._details[k] for k in recent[-DETAILS_KEPT:]}

    @property
    def _latest(self) -> dict[str, str]:
        """The customers whose details were sent on last, as the state keeps them."""
        return dict([*self._details.items()][-DETAILS_KEPT:])

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
                self.logger.info(
                    "Going on with the scan of %s, which was interrupted.",
                    self._scan.started,
                )

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
        self._scan.restart()
        self._resumed_after = None

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
        if checkpoint:
            state["scan"] = [checkpoint]
        # A batch that is not full yet is not written yet: there the SDK writes the
        # state, after each batch.
        if not batches:
            self._tap.state_writer.write_state(self.tap_state)

    def _close(self) -> None:
        """Finish: nothing of the scan stays in the state but the bookmark.

        ``scan`` becomes empty, and is not left out: Meltano merges the states of a full
        refresh key by key. For the same reason it is a list, which is replaced whole.
        """
        scan, state = self._scan, self.get_context_state(None)
        state["scan_by"] = self._way
        if self.is_incremental:
            state.update(scan=[], asked=scan.asked)
        if not self.is_incremental and self.emit_activate_version_messages:
            self._activate_versions()
        self._summarize()

    def _activate_versions(self) -> None:
        if not self._scan.closed:
            self.warn("So no customer is marked as deleted in this run.")
            return
        self.activate_version()
        if self._child:
            # Its table is to be emptied too, where the list is empty.
            self._child.read([], lambda _: None)
            self._child.activate_version()

    def _summarize(self) -> None:
        """Say in one line what this run has done."""
        scan = self._scan
        ends = [at for at in (scan.newest, scan.bookmark) if at]
        bookmark = min(max(ends), scan.signpost or "") if ends else "none"
        child = self._child
        if child:
            self.logger.info(
                "Details sent: %d. Customers that were deleted meanwhile: %d.",
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


class CustomerDetailsStream(CustomerStream):
    """All that Homele knows of each customer that the list has sent on."""

    name = "customer_details"
    path = "/customers/{customer_id}"
    parent_stream_type = CustomersStream
    has_more_fields = True
    # Otherwise the SDK would make a full table of the list.
    ignore_parent_replication_key = False
    # Nothing is kept for each customer: the checkpoint of the list has it all.
    state_partitioning_keys = ()
    schema: t.ClassVar[dict[str, t.Any]] = th.PropertiesList(
        *COLUMNS, *DETAIL_COLUMNS, ADDITIONAL
    ).to_dict()

    # How many were asked for, and how many of them were gone.
    asked = gone = 0
    _connections = 1
    # When it began, and when it was said last how far it is, by a clock in seconds.
    _began: float | None = None
    _reported = 0.0

    # What is read next, and what is called after each.
    _customer_ids: t.Sequence[str] = ()
    _sent: t.Callable[[str], None]

    def read(
        self, customer_ids: t.Sequence[str], sent: t.Callable[[str], None]
    ) -> None:
        """Ask for the details of some customers, and write them.

        Args:
            customer_ids: Their ids, as text.
            sent: Is called with the id of each when the SDK has written its details.

        Raises:
            FatalAPIError: If the details of one cannot be had.
        """
        if self._began is None:
            self._began = self._reported = monotonic()
        if customer_ids:
            self.logger.info(
                "Asking for the details of customers of this page: %d, one request "
                "each.",
                len(customer_ids),
            )
        self._customer_ids, self._sent = customer_ids, sent
        self.sync()

    def request_records(
        self,
        context: Context | None,
    ) -> Iterator[records.Record]:
        """Ask for one customer after the other.

        Args:
            context: Not used: the stream has no partitions.

        Yields:
            The details of each.
        """
        send = self.request_decorator(self._ask)
        waiting = iter(self._customer_ids)
        under_way: deque[tuple[str, Future[requests.Response]]] = deque()
        left = len(self._customer_ids)
        while left:
            for customer_id in itertools.islice(
                waiting, max(0, self._connections - len(under_way))
            ):
                request = self.build_prepared_request(
                    method="GET",
                    url=f"{self.url_base}/customers/{customer_id}",
                    headers=self.http_headers,
                )
                future = in_background(send, request, context)
                under_way.append((customer_id, future))
            customer_id, future = under_way.popleft()
            response = future.result()
            seconds = response.elapsed.total_seconds()
            self._connections = min(MOST_CONNECTIONS, 1 + int(seconds / QUICK))
            yield from self._details(customer_id, response)
            # The SDK has written it when it asks for more.
            self.asked += 1
            left -= 1
            self._sent(customer_id)
            self._report(left)

    def _ask(
        self,
        request: requests.PreparedRequest,
        context: Context | None,  # noqa: ARG002
    ) -> requests.Response:
        response = self.requests_session.send(
            self.authenticator(request), timeout=self.timeout
        )
        self.validate_response(response)
        return response

    def validate_response(self, response: requests.Response) -> None:
        """Check an answer as that of the list, but for a customer that is gone.

        Args:
            response: Any answer.

        Raises:
            RetriableAPIError: If the same request may succeed later.
            FatalAPIError: If it will not, with what to do about it.
        """
        if not is_gone(response):
            super().validate_response(response)

    def refusal(self, response: requests.Response, said: str) -> str:
        """Say what to do about an answer that will not change.

        Args:
            response: The answer.
            said: Its status and message.
        """
        if response.status_code == HTTPStatus.FORBIDDEN:
            return (
                "The token may read the list of customers, but not their details "
                f"({said}). Give it the permission customer:read for them too, in "
                "Homele under Settings > API Integration, or set customer_details to "
                "false."
            )
        return super().refusal(response, said)

    def _details(
        self, customer_id: str, response: requests.Response
    ) -> Iterator[records.Record]:
        """Make a record of an answer, or none, if the customer is gone."""
        if is_gone(response):
            self.gone += 1
            if self.gone == MOST_GONE == self.asked + 1:
                raise FatalAPIError(
                    f"Homele has no details of any of the first {MOST_GONE} customers, "
                    "who are all in its list. Run the tap again; if it stays so, set "
                    "customer_details to false, and tell Homele's support."
                )
            return
        row = self.read_answer(response)["data"]
        try:
            record = self.fitter.fit(row)
        except records.MisfitError as reason:
            raise FatalAPIError(
                f"What Homele answered for customer {customer_id} {reason}, so it "
                "cannot be stored. Tell Homele's support."
            ) from None
        if str(record["id"]) != customer_id:
            raise FatalAPIError(
                f"Homele was asked for customer {customer_id}, and answered with "
                f"customer {record['id']}. Tell Homele's support."
            )
        yield record

    def _report(self, left: int) -> None:
        """Say once a minute how far it is."""
        now = monotonic()
        if self._began is None or now - self._reported < REPORT_EVERY:
            return
        self._reported = now
        per_minute = 60 * self.asked / (now - self._began)
        self.logger.info(
            "Details so far: %d, %.0f a minute. Left of this page: %d, %.1f minutes. "
            "How many pages follow, Homele does not say.",
            self.asked,
            per_minute,
            left,
            left / per_minute,
        )
