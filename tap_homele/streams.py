"""The streams: their columns, and the flow of a sync.

Start here. ``CustomersStream.get_records`` is the whole flow: ``state.start_scan``
fills the scan from the state, ``sync.pages`` decides which pages of the list are read,
the scan which customers have changed, the SDK writes them when they are yielded, their
details follow, and after each page ``state.note_page`` saves a checkpoint. At the end
``state.note_end`` saves what the next runs need, and deletes are announced.
"""

import time
import typing as t
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus

import requests
from singer_sdk import typing as th
from singer_sdk.helpers.types import Context

from tap_homele import config, records, state, sync
from tap_homele.client import CustomerStream, HomeleStream
from tap_homele.errors import PageError
from tap_homele.http import body_of
from tap_homele.pages import CustomerPages
from tap_homele.sync.scan import Checkpoint, Page, Scan

# If the first so many requests for details are all answered with 404, it is not because
# all these customers were deleted.
MAX_MISSING = 20

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


class CustomersStream(CustomerPages):
    """The customers of a company."""

    name = "customers"
    path = "/customers"
    replication_key = "updated_at"
    schema = th.PropertiesList(*COLUMNS, ADDITIONAL).to_dict()

    # The scan of this run.
    _scan: Scan

    def progress(self) -> str:
        """Say how many customers were read, and how many of them had changed."""
        return f"{self._scan.read:,} read, {self._scan.sent:,} changed"

    def get_records(self, context: Context | None) -> Iterator[records.Record]:  # noqa: ARG002
        """Read the list; yield each customer that has changed."""
        began = time.monotonic()
        scan = self._scan = self._start_scan()
        for page in sync.pages(self.read, scan):
            changed = scan.changed(page)
            scan.count(page, changed)
            # Before the SDK gets the records: it removes deselected columns from them.
            wanted = filter(self.passes_stream_maps, changed) if self.details else ()
            customer_ids = [record["id"] for record in wanted]
            yield from changed
            if self.details and customer_ids:
                # One sync for a page, so one SCHEMA and one STATE.
                self.details.sync({"customer_ids": customer_ids})
            self._write_progress(scan, page)
        self._finish(scan)
        self._summarize(scan, time.monotonic() - began)

    @property
    def details(self) -> "CustomerDetailsStream | None":
        """The stream of details; None if it is not selected."""
        streams = [stream for stream in self.child_streams if stream.selected]
        return t.cast("CustomerDetailsStream", streams[0]) if streams else None

    def _start_scan(self) -> Scan:
        """Make the scan of this run from the settings and the state."""
        settings = self.config
        start_date = settings.get("start_date") if self.is_incremental else None
        # A stream that is selected anew needs all customers, so the selection is a part
        # of the fingerprint; only the list, the default, adds nothing.
        tables = {} if self.selected else {self.name: False}
        tables |= {self.details.name: True} if self.details else {}
        filters = config.filters_of(settings)
        fingerprint = state.fingerprint(self.url_base, filters, tables)
        scan = Scan(
            checkpoint=Checkpoint(fingerprint=fingerprint),
            first_bookmark=records.utc(start_date) or "",
            created_from=config.to_date(settings.get("filter_created_from")),
            created_to=config.to_date(settings.get("filter_created_to")),
            is_incremental=self.is_incremental,
            announces_deletes=self.announces_deletes,
            full_scan_every=timedelta(hours=settings.get("full_scan_every_hours") or 0),
            requests_left=lambda: self.session.requests_left,
        )
        state.start_scan(self.get_context_state(None), scan, settings["scan_by"])
        return scan

    def _write_progress(self, scan: Scan, page: Page) -> None:
        """Write the state after a page."""
        batches = self.get_batch_config(self.config)
        # With batches, the details can write a STATE before the customers of this page
        # are written: a checkpoint in it would lose them.
        resumable = None if batches and self.details else page
        state.note_page(self.get_context_state(None), scan, resumable)
        if self.is_incremental and not batches:  # else the SDK writes the state
            self._tap.state_writer.write_state(self.tap_state)

    def _finish(self, scan: Scan) -> None:
        """Write the end of the scan into the state; announce deletes, if all came."""
        state.note_end(self.get_context_state(None), scan)
        if self.announces_deletes and scan.gaps:
            self.logger.warning("No customer is marked as deleted: %s.", scan.gaps[0])
        elif self.announces_deletes:
            self.activate_version()
            if self.details:
                self.details.finish_table()

    def _summarize(self, scan: Scan, seconds: float) -> None:
        """Log in one line what this run has done, and what is not certain yet."""
        requests = self.session.requests
        asked = f"in {requests:,} request{'s' * (requests != 1)} and {seconds:.0f} s"
        parts = [f"customers: {self.progress()} and sent, {asked}"]
        self.log_fields()
        if details := self.details:
            details.log_fields()
            deleted = f", {details.missing:,} deleted" if details.missing else ""
            parts.append(f"customer_details: {details.found:,} read{deleted}")
        if self.is_incremental and scan.next_bookmark:
            bookmark = min(scan.next_bookmark, scan.signpost).replace("+00:00", "Z")
            run = "full scan" if scan.quick_since else "run"
            parts.append(f"Next {run}: changes since {bookmark}")
        self.logger.info("%s.", ". ".join(parts))
        if scan.gaps:
            self.logger.info("Not certain yet: %s.", ". ".join(scan.gaps))
        if scan.checkpoint.bookmark and scan.read > MANY_CUSTOMERS:
            late = f"{scan.edited:,} of these {scan.sent:,} customers"
            self.logger.info("With quick runs %s would have come only now.", late)


class CustomerDetailsStream(CustomerStream):
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
        403: "The token may read the list of customers, but not their details "
        "({said}). Give it the permission customer:read for them too, in Homele under "
        "Settings > API Integration, or set customer_details to false."
    }
    schema = th.PropertiesList(*COLUMNS, *DETAIL_COLUMNS, ADDITIONAL).to_dict()

    # How many customers have details, how many have none, and how many are still to be
    # asked for on this page.
    found = missing = pending = 0

    def progress(self) -> str:
        """Say how many details were read, and how many are pending."""
        return f"{self.found:,} read, {self.pending:,} pending on this page"

    def get_records(self, context: Context | None) -> Iterator[records.Record]:
        """Read the details of the ``customer_ids`` of a page, one request each."""
        customer_ids = (context or {})["customer_ids"]
        for number, customer_id in enumerate(customer_ids):
            self.pending = len(customer_ids) - number
            yield from self.request_records({"customer_id": customer_id})

    def get_new_paginator(self) -> None:
        """Return None: there is one page."""

    def validate_response(self, response: requests.Response) -> None:
        """Check an answer. That there is no such customer is a valid one.

        Raises:
            RetriableAPIError: If the same request may succeed later.
            FatalAPIError: If it will not, with what to do about it.
        """
        if not is_gone(response):
            super().validate_response(response)

    def parse_response(self, response: requests.Response) -> Iterator[records.Record]:
        """Yield the details of a customer; nothing, if it is gone.

        Raises:
            PageError: If it is another customer, or none; or if none of the first
                customers has details.
        """
        # The URL is the tap's own: redirects are not followed.
        customer_id = int(response.url.rpartition("/")[2])
        if is_gone(response):
            self.missing += 1
            if self.missing == MAX_MISSING and not self.found:
                raise PageError(
                    f"Homele has no details of any of the first {MAX_MISSING} "
                    "customers, which are in its list. Run the tap again; if it stays "
                    "so, set customer_details to false, and tell Homele's support."
                )
            return
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
        self.found += 1
        yield record

    def finish_table(self) -> None:
        """Activate the version, unless details were missing.

        A 404 should mean that the customer was deleted, but a target cannot undo it.
        """
        # Begins a version even if there were no customers, so that old rows go.
        self.sync({"customer_ids": []})
        if self.missing:
            self.logger.warning(
                "No details are marked as deleted: Homele has none of %d customers.",
                self.missing,
            )
        else:
            self.activate_version()

    def log(self, *_: t.Any, **__: t.Any) -> None:
        """Log nothing, in place of the SDK: it tells of each page's details."""


def is_gone(response: requests.Response) -> bool:
    """Tell whether the API says that there is no such customer (any more).

    A 404 of a proxy is a page in HTML, and that of a wrong address has another message.
    """
    if response.status_code != HTTPStatus.NOT_FOUND:
        return False
    body = body_of(response)
    is_stock = str(body.get("message")).startswith("No query results")
    return is_stock or body.get("success") is False  # the documented answer
