"""The stream of customers: its columns, and the flow of a sync.

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
from tap_homele.http import http_date
from tap_homele.pagination import next_cursor
from tap_homele.schema import column, related, schema_of
from tap_homele.sync.changes import Progress, changed
from tap_homele.sync.created import MAX_PAGE_SIZE
from tap_homele.sync.plan import Plan, Settings, make_plan
from tap_homele.sync.values import Doubt, Learned, Note, Page, Query

if t.TYPE_CHECKING:
    from tap_homele.details import CustomerDetailsStream

# So many customers pass the rate limit in a minute. Below, quick runs are not worth it,
# and the log does not speak of them.
MANY_CUSTOMERS = 6000


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
    schema = schema_of(*COLUMNS, ADDITIONAL)

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

    @property
    def hint(self) -> str:
        """Which filters may be why nobody has come yet."""
        filters = ", ".join(config.filters_set(self.config))
        said = f" What Homele does not take may be a filter: {filters}."
        return said if filters and not self._progress.rows_read else ""

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
