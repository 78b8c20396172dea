"""What reads the details: a request for each customer, on as few connections as do."""

from __future__ import annotations

import itertools
import typing as t
from collections import deque
from http import HTTPStatus
from time import monotonic

from singer_sdk.exceptions import FatalAPIError

from tap_homele import records
from tap_homele.client import in_background, is_gone
from tap_homele.scanned import CustomerStream

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    import requests
    from singer_sdk.helpers.types import Context

# The budget is a request a second. Where an answer takes longer than this, in seconds,
# another connection is used, up to so many.
QUICK = 0.8
MOST_CONNECTIONS = 5

# Takes a customer's id, and whether there are no details.
Answered: t.TypeAlias = "Callable[..., None]"

# How often it is said how far the details are, in seconds.
REPORT_EVERY = 60


class DetailStream(CustomerStream):
    """The details of the customers that a list has sent on."""

    # Otherwise the SDK would make a full table of the list.
    ignore_parent_replication_key = False
    # Nothing is kept for each customer: the checkpoint of the list has it all.
    state_partitioning_keys = ()

    # How many were asked for, and how many of them were gone.
    asked = gone = 0
    _connections = 1
    # When it was said last how far it is, in seconds, and how many had been asked for
    # then. While the list is read it is how long before.
    _reported = 0.0
    _asked_then = 0

    # Who is read next, and what is called after each.
    _customer_ids: Sequence[int] = ()
    _answered_by: Answered

    def read(self, customer_ids: Sequence[int], answered: Answered) -> None:
        """Ask for the details of some customers, and write them.

        Args:
            customer_ids: Their ids.
            answered: Is called with the id of each, and with ``is_gone``: whether there
                are no details; else the SDK has written them.

        Raises:
            FatalAPIError: If the details of one cannot be had.
        """
        if customer_ids:
            self.logger.info(
                "Asking for the details of %d customers, one request each.",
                len(customer_ids),
            )
        self._customer_ids, self._answered_by = customer_ids, answered
        # What the list takes between two readings does not count.
        self._reported += monotonic()
        self.sync()
        self._reported -= monotonic()

    def log(self, *_: t.Any, **__: t.Any) -> None:
        """Leave it to ``read`` to say that it begins: the SDK would, each time."""

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
        under_way: deque[tuple[int, Future[requests.Response]]] = deque()
        left = len(self._customer_ids)
        while left:
            for customer_id in itertools.islice(
                waiting, max(0, self._connections - len(under_way))
            ):
                request = self.build_prepared_request(
                    method="GET",
                    url=self.url_base + self.path.format(customer_id=customer_id),
                    headers=self.http_headers,
                )
                future = in_background(send, request, context)
                under_way.append((customer_id, future))
            customer_id, future = under_way.popleft()
            response = future.result()
            seconds = response.elapsed.total_seconds()
            self._connections = min(MOST_CONNECTIONS, 1 + int(seconds / QUICK))
            self.asked += 1
            left -= 1
            gone = is_gone(response)
            if gone:
                self.gone += 1
            else:
                yield self._details(customer_id, response)
            # The SDK has written them when it asks for more.
            self._answered_by(customer_id, is_gone=gone)
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

    def _details(self, customer_id: int, response: requests.Response) -> records.Record:
        """Make a record of an answer."""
        row = self.read_answer(response)["data"]
        try:
            record = self.fitter.fit(row)
        except records.MisfitError as reason:
            raise FatalAPIError(
                f"What Homele answered for customer {customer_id} {reason}, so it "
                "cannot be stored. Tell Homele's support."
            ) from None
        if record["id"] != customer_id:
            raise FatalAPIError(
                f"Homele was asked for customer {customer_id}, and answered with "
                f"customer {record['id']}. Tell Homele's support."
            )
        return record

    def _report(self, left: int) -> None:
        """Say once a minute how far it is."""
        seconds = monotonic() - self._reported
        if seconds < REPORT_EVERY:
            return
        per_minute = 60 * (self.asked - self._asked_then) / seconds
        self._reported += seconds
        self._asked_then = self.asked
        self.logger.info(
            "Details so far: %d, %.0f a minute now. Left of those that the list has "
            "shown: %d, %.1f minutes. How many follow, Homele does not say.",
            self.asked,
            per_minute,
            left,
            left / per_minute,
        )
