"""A tap with the SDK's defaults, and nothing of what this one exists for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.pagination import JSONPathPaginator
from singer_sdk.streams.rest import HTTPRequest, PageContext

from tap_homele.streams import CustomersStream

if TYPE_CHECKING:
    import requests


class Paginator(JSONPathPaginator):
    def has_more(self, response: requests.Response) -> bool:
        return bool(response.json()["meta"]["has_more"])


class Customers(RESTStream[str]):
    name = "customers"
    path = "/customers"
    primary_keys: ClassVar[list[str]] = ["id"]
    replication_key = "updated_at"
    records_jsonpath = "$.data[*]"
    schema: ClassVar[dict[str, Any]] = CustomersStream.schema

    @property
    def url_base(self) -> str:
        return str(self.config["api_url"])

    @property
    def authenticator(self) -> BearerTokenAuthenticator:
        return BearerTokenAuthenticator(token=self.config["auth_token"])

    def get_http_request(self, *, page: PageContext[str]) -> HTTPRequest:
        return HTTPRequest(
            url=f"{self.url_base}{self.path}",
            headers=self.http_headers,
            params={"per_page": 100, "cursor": page.next_page_token},
        )

    def get_new_paginator(self) -> Paginator:
        return Paginator("$.meta.next_cursor")


class DefaultTap(Tap):
    name = "tap-homele"
    config_jsonschema: ClassVar[dict[str, Any]] = th.PropertiesList(
        th.Property("auth_token", th.StringType, required=True),
        th.Property("api_url", th.StringType, required=True),
    ).to_dict()

    def discover_streams(self) -> list[Customers]:
        return [Customers(self)]


if __name__ == "__main__":
    DefaultTap.cli()
