"""The streams: their columns, and the flow of a sync.

Start here. ``CustomersStream.get_records`` is the whole flow: ``make_plan`` decides
what the run does, ``sync.steps`` yields what it reads, ``changed`` decides which
customers are sent, the SDK writes them when they are yielded, their details follow, and
after each page the state says where the next run resumes. At the end deletes are
announced, if there is no doubt.
"""

import functools
import time
import typing as t
from collections.abc import Iterator
from datetime import timedelta

import requests
from singer_sdk import typing as th
from singer_sdk.helpers.types import Context
from singer_sdk.mapper import RemoveRecordTransform, StreamMap
from singer_sdk.streams.rest import HTTPRequest, PageContext

from tap_homele import config, records, state, sync
from tap_homele.client import HomeleStream
from tap_homele.errors import ForbiddenError, OutageError, PageError, ServerError
from tap_homele.http import http_date
from tap_homele.pagination import next_cursor
from tap_homele.sync.changes import Progress, changed
from tap_homele.sync.created import MAX_PAGE_SIZE
from tap_homele.sync.plan import Plan, Settings, make_plan
from tap_homele.sync.values import Doubt, Learned, Note, Page, Query

# If so many details in a row cannot be had, it is not for one customer. So many times
# in a run the server itself may fail on one.
ENOUGH_MISSING = 5
MAX_SERVER_ERRORS = 3

# So many customers pass the rate limit in a minute. Below, quick runs are not worth it,
# and the log does not speak of them.
MANY_CUSTOMERS = 6000


def related(name: str, description: str) -> th.Property[t.Any]:
    """Declare a reference to another object of the CRM, ``{id, name}`` or null."""
    number = th.Property("id", th.IntegerType, description="Its number in Homele.")
    label = th.Property("name", th.StringType, description="Its name in Homele.")
    return th.Property(name, th.ObjectType(number, label), description=description)


def column(name: str, kind: t.Any, description: str) -> th.Property[t.Any]:
    """Declare a column.

    All but the key may be null, even where the vendor says otherwise: one odd customer
    must not keep all others out.
    """
    return th.Property(name, kind, description=description, required=name == "id")


# The columns of the list.
COLUMNS: t.Final = (
    column("id", th.IntegerType, "The customer's number in Homele."),
    column("sequential_number", th.IntegerType, "The number that Homele shows."),
    column("name", th.StringType, "The full name."),
    column("first_name", th.StringType, "The first name."),
    column("last_name", th.StringType, "The last name."),
    column("phone1", th.StringType, "The main phone number."),
    column("phone2", th.StringType, "A second phone number."),
    column("phone3", th.StringType, "A third phone number."),
    column("email1", th.StringType, "The e-mail address."),
    column("address", th.StringType, "The postal address."),
    column("budget", th.SingerDecimalType, "What the customer can spend, as text."),
    column("budget_currency", th.StringType, "The currency of the budget."),
    column("expected_sale_date", th.DateType, "When a sale is expected."),
    related("lead_status", "How far the sale has come."),
    related("lead_source", "Where the customer came from."),
    related("owner", "Who looks after the customer."),
    related("priority", "How urgent the customer is."),
    related("country", "The customer's country."),
    related("city", "The customer's city."),
    column("created_at", th.DateTimeType, "When it was entered."),
    column("updated_at", th.DateTimeType, "When it was last edited."),
    column("last_activity_at", th.DateTimeType, "When something last happened."),
)

# What only the details have, as far as their names are known. Each other one becomes a
# column by a line here.
DETAIL_COLUMNS: t.Final = (related("occupation", "What the customer does."),)

ADDITIONAL: t.Final = th.Property(
    records.ADDITIONAL,
    # The SDK would flatten an empty list of properties to nothing.
    th.CustomType({"type": ["object", "null"]}),
    description="What no column can hold, by the name of the field.",
)


class CustomersStream(HomeleStream):
    """The customers of a company."""

    name = "customers"
    path = "/customers"
    replication_key = "updated_at"
    schema = th.PropertiesList(*COLUMNS, ADDITIONAL).to_dict()

    # How far this run is, for the log.
    _progress: Progress

    def get_records(self, context: Context | None) -> Iterator[records.Record]:  # noqa: ARG002
        """Read the list; yield each customer that has changed."""
        began, details = time.monotonic(), self.details
        progress = self._progress = Progress.of(self._make_plan())
        self._save(progress)
        for step in sync.steps(
            self.fetch, progress.plan, lambda: self.session.requests_left
        ):
            if isinstance(step, Page):
                sent = changed(step, progress.plan)
                progress.add(step, sent)
                # Before the SDK gets the records: it removes deselected columns.
                to, wanted = self.stream_maps[0], sent if details else []
                customer_ids = [row["id"] for row in wanted if passes(row, to)]
                yield from sent
                if details and customer_ids:
                    # One sync for a page, so one SCHEMA and one STATE.
                    details.sync({"customer_ids": customer_ids})
                if not details or details.can_resume:
                    progress.reach(step)
                self._save(progress, is_page=True)
            elif isinstance(step, Plan):
                progress.change_plan(step)
                self._log(*step.notes)
                self._save(progress)
            elif isinstance(step, Learned):
                self._finish(progress, step)
            elif isinstance(step, Doubt):
                progress.doubts.append(step.sentence)
                self._log(step)
            else:
                self._log(step)
        self._summarize(progress, time.monotonic() - began)

    # A query becomes requests, an answer becomes a page.

    def fetch(self, query: Query) -> Iterator[Page]:
        """Send a query and follow its cursor: the SDK's loop, page by page.

        Raises:
            PageError: If a page cannot be read.
            TokenError: If the API does not accept the token.
        """
        return iter(t.cast("list[Page]", self.request_records({"query": query})))

    def get_http_request(self, *, page: PageContext[str | None]) -> HTTPRequest:
        """Make the request for a page of a query.

        Cursors hold neither the filters nor the page size (Laravel), so each request
        repeats them.
        """
        query: Query = (page.stream_context or {})["query"]
        first, last = query.created_from, query.created_to
        days = {"filter[date_from]": first, "filter[date_to]": last}
        window = {name: str(day) for name, day in days.items() if day}
        return HTTPRequest(
            url=f"{self.url_base}{self.path}",
            headers=self.http_headers,
            params={
                # A window of created dates has to fit on one page.
                "per_page": MAX_PAGE_SIZE if window else self.config["page_size"],
                **config.filters_of(self.config),
                **window,
                "cursor": page.next_page_token or query.cursor,
            },
        )

    def parse_response(self, response: requests.Response) -> Iterator[t.Any]:
        """Yield the one page of an answer."""
        rows = list(super().parse_response(response))
        at = http_date(response.headers.get("Date")) or records.utc_now()
        cursor = next_cursor(self.read_answer(response))
        yield Page(rows, at.isoformat(timespec="seconds"), cursor)

    # What a run starts from, and what it leaves.

    @functools.cached_property
    def details(self) -> "CustomerDetailsStream | None":
        """The stream of details; None if it is not selected."""
        streams = [stream for stream in self.child_streams if stream.selected]
        return t.cast("CustomerDetailsStream", streams[0]) if streams else None

    def _make_plan(self) -> Plan:
        """Decide what this run does, from the settings and the state."""
        # A stream that is selected anew needs all customers, so the selection is a part
        # of the list; only the list itself, the default, adds nothing.
        tables = {} if self.selected else {self.name: False}
        tables |= {self.details.name: True} if self.details else {}
        asked = self.url_base, config.filters_of(self.config), tables
        this_list = state.list_id(*asked, token=self.config["auth_token"])
        begun = self.get_context_state(None)
        saved, bookmark = state.read(begun, this_list, state.list_id(*asked))
        settings = settings_of(self.config, this_list)._replace(
            is_incremental=self.replication_method == "INCREMENTAL",
            announces_deletes=self.announces_deletes,
        )
        now = records.utc_now().isoformat(timespec="seconds")
        plan = make_plan(saved, bookmark, settings, now)
        self._log(*plan.notes)
        return plan

    def generate_child_contexts(self, *_: t.Any, **__: t.Any) -> Iterator[Context]:
        """Return none: for each, the SDK writes a SCHEMA and a STATE."""
        return iter(())

    def _log(self, *notes: Note | Doubt) -> None:
        for sentence, level in notes:
            self.logger.log(level, sentence)

    def _save(self, progress: Progress, *, is_page: bool = False) -> None:
        """Write where the next run would resume; as a STATE after a page.

        A full table is not resumed: an open scan stays as it is until it has ended.
        """
        if not progress.plan.settings.is_incremental:
            return
        saved = state.after_page(progress)
        state.write(self.get_context_state(None), saved, progress)
        if is_page and not self.get_batch_config(self.config):  # else the SDK does it
            self._tap.state_writer.write_state(self.tap_state)

    def _finish(self, progress: Progress, learned: Learned) -> None:
        """Write what the next runs need; announce deletes, if there is no doubt."""
        saved = state.after_run(progress, learned)
        state.write(self.get_context_state(None), saved, progress)
        if self.announces_deletes and progress.doubts:
            reason = progress.doubts[0]
            self.logger.warning("No customer is marked as deleted: %s", reason)
        elif self.announces_deletes:
            self.activate_version()
            if self.details:
                self.details.finish_table()

    def progress(self) -> str:
        """Say how many customers were read, and how many of them had changed."""
        return self._progress.said

    def _summarize(self, progress: Progress, seconds: float) -> None:
        """Log in one line what this run has done."""
        asked = f"in {self.session.requests:,} requests and {seconds:.0f} s"
        parts = [f"customers: {progress.said} and sent, {asked}"]
        self.log_misfits()
        if self.details:
            self.details.log_misfits()
            parts.append(f"customer_details: {self.details.progress()}")
        self.logger.info("%s.", ". ".join([*parts, *progress.next_run]))
        if progress.rows_read > MANY_CUSTOMERS and progress.is_full_scan_of_changes:
            late = f"{progress.rows_late:,} of these {progress.rows_sent:,} changes"
            self.logger.info("Quick runs would have delayed %s.", late)


def passes(record: records.Record, to: StreamMap) -> bool:
    """Tell whether a stream map does not filter a record out.

    One that removes the whole stream is no filter: its child is wanted then.
    """
    return isinstance(to, RemoveRecordTransform) or to.get_filter_result(record)


def settings_of(settings: t.Mapping[str, t.Any], list_id: str) -> Settings:
    """Return what the user has set that decides how the list is read."""
    hours = settings.get("full_scan_every_hours") or 0
    return Settings(
        list_id=list_id,
        scan_by=settings["scan_by"],
        start_date=records.utc(settings.get("start_date")) or "",
        created_from=config.to_date(settings.get("filter_created_from")),
        created_to=config.to_date(settings.get("filter_created_to")),
        has_filters=any(config.filters_of(settings).values()),
        full_scan_every=timedelta(hours=hours),
    )


class CustomerDetailsStream(HomeleStream):
    """All that Homele knows of each customer that the list has sent.

    The list calls its ``sync`` once for each page. The SDK would call it once for each
    record, and write a SCHEMA and a STATE each time (``generate_child_contexts``).
    """

    name = "customer_details"
    path = "/customers/{customer_id}"
    parent_stream_type = CustomersStream
    ignore_parent_replication_key = False  # so that the list stays incremental
    state_partitioning_keys = ()  # no state for each customer
    refusals = HomeleStream.refusals | {
        403: "The token may read the list of customers, but not these details ({said}, "
        "{endpoint}). Give it the permission customer:read for them too, in Homele "
        "under Settings > API Integration, or set customer_details to false.",
        404: "Homele has no such customer ({said}, {endpoint}).",
    }
    schema = th.PropertiesList(*COLUMNS, *DETAIL_COLUMNS, ADDITIONAL).to_dict()

    # How many details were had, how many are still to be asked for on this page, on how
    # many the server failed, and how many in a row could not be had.
    found = pending = server_errors = in_a_row = 0

    # How many details could not be had.
    missing = 0

    def progress(self) -> str:
        """Say how many details were read, and how many are pending."""
        missing = f", {self.missing:,} missing" if self.missing else ""
        pending = f", {self.pending:,} pending on this page" if self.pending else ""
        return f"{self.found:,} read{missing}{pending}"

    def get_records(self, context: Context | None) -> Iterator[records.Record]:
        """Read the details of the ``customer_ids`` of a page, one request each.

        One customer never holds up the others: whose details cannot be had is passed
        over, and comes when it changes again.

        Raises:
            PageError: If none of a few in a row can be had, or the server fails on more
                than a few, or is not there.
            TokenError: If it does not know the token.
        """
        customer_ids, missing = (context or {})["customer_ids"], dict[int, str]()
        for number, customer_id in enumerate(customer_ids):
            self.pending = len(customer_ids) - number
            try:
                yield from self.request_records({"customer_id": customer_id})
            except OutageError:
                raise
            except (PageError, ForbiddenError) as error:
                self.server_errors += isinstance(error, ServerError)
                if self.server_errors > MAX_SERVER_ERRORS:
                    raise
                missing[customer_id] = str(error)
                self.in_a_row += 1
        self.pending, self.missing = 0, self.missing + len(missing)
        if missing:
            self._warn(missing)
        if self.in_a_row >= ENOUGH_MISSING:
            raise PageError(
                f"Homele has given the details of none of {self.in_a_row} customers, "
                "one after the other, which are in its list. If it stays so, set "
                "customer_details to false, and tell Homele's support."
            )

    @property
    def can_resume(self) -> bool:
        """Whether a run can resume after the page whose details were asked for.

        Not after one that could not be had: it may turn out to be an error. And with
        batches, the SDK can write a STATE before the customers of the page are written.
        """
        return not self.in_a_row and not self.get_batch_config(self.config)

    def get_new_paginator(self) -> None:
        """Return None: there is one page."""

    def parse_response(self, response: requests.Response) -> Iterator[records.Record]:
        """Yield the details of a customer.

        Raises:
            PageError: If it is another customer, or none.
        """
        # The URL is the tap's own: redirects are not followed.
        customer_id = int(response.url.rpartition("/")[2])
        try:
            record = self.fitter.fit(self.read_answer(response)["data"])
            wrong = "" if record["id"] == customer_id else f"customer {record['id']}"
        except records.MisfitError as reason:
            wrong = f"one that {reason}"
        if wrong:
            raise PageError(
                f"Homele was asked for customer {customer_id}, and answered with "
                f"{wrong}. Tell Homele's support."
            )
        self.found, self.in_a_row = self.found + 1, 0
        yield record

    def finish_table(self) -> None:
        """Activate the version, unless details are missing.

        A 404 should mean that the customer was deleted, but a target cannot undo it.
        """
        # Begins a version even if there were no customers, so that old rows go.
        self.sync({"customer_ids": []})
        if self.missing:
            reason = f"Homele has none of {self.missing} customers"
            self.logger.warning("No details are marked as deleted: %s.", reason)
        else:
            self.activate_version()

    def _warn(self, missing: dict[int, str]) -> None:
        """Log whose details on a page cannot be had, and why not."""
        ids = ", ".join(map(str, missing))
        self.logger.warning(
            "The details of these customers cannot be had, and come when they change "
            "again: %s. The first answer: %s",
            *(ids, next(iter(missing.values()))),
        )

    def log(self, *_: t.Any, **__: t.Any) -> None:
        """Log nothing, in place of the SDK: it tells of each page's details."""
