"""A list ends with ``has_more: false``, and in no other way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import FatalAPIError

from tests.sandbox import Sandbox, faults
from tests.singer import Output, sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Serve

    Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def sandbox(serve: Serve) -> Sandbox:
    return serve(450)  # five pages


def set_meta(**values: Any) -> Change:
    return lambda page: page["meta"].update(values)


NO_CURSOR = "A page of the list says that more follow, but has no 'meta.next_cursor'."
NO_HAS_MORE = "A page of the list does not say true or false in 'meta.has_more'."
NO_META = "A page of the list has no 'meta'."
ANSWERED = "GET /api/v2/crm/customers was answered"

MALFORMED: dict[str, tuple[Change, str]] = {
    "cursor null": (set_meta(next_cursor=None), NO_CURSOR),
    "cursor empty": (set_meta(next_cursor=""), NO_CURSOR),
    "cursor a number": (set_meta(next_cursor=17), NO_CURSOR),
    "no cursor": (lambda page: page["meta"].pop("next_cursor"), NO_CURSOR),
    "no has_more": (lambda page: page["meta"].pop("has_more"), NO_HAS_MORE),
    "has_more a string": (set_meta(has_more="true"), NO_HAS_MORE),
    "has_more null": (set_meta(has_more=None), NO_HAS_MORE),
    "no meta": (lambda page: page.pop("meta"), NO_META),
    "meta null": (lambda page: page.update(meta=None), NO_META),
    "no data": (lambda page: page.pop("data"), f"{ANSWERED} without 'data'."),
    "empty": (
        lambda page: page["data"].clear(),
        "A page of the list is empty, but says that more follow.",
    ),
    "data null": (
        lambda page: page.update(data=None),
        f"{ANSWERED} with 'data' that is not a list.",
    ),
    "success false": (
        lambda page: page.update(success=False, message="Nope."),
        f"{ANSWERED} with success: false, 'Nope.'.",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_page_without_its_markers_is_an_error(sandbox: Sandbox, name: str) -> None:
    change, sentence = MALFORMED[name]
    sandbox.fail(faults.page(sandbox, change), at=3)
    output = Output([])

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox, output=output)

    assert str(error.value).startswith(sentence)
    # The next run resumes at this page.
    assert len(output.records) == 200
    assert len(output.states) == 2
    assert all(
        "replication_key_value" not in state["bookmarks"]["customers"]
        for state in output.states
    )


def test_a_body_that_is_not_an_object_is_an_error(sandbox: Sandbox) -> None:
    sandbox.fail(faults.body("[]"), at=3)

    with pytest.raises(FatalAPIError, match="JSON that is not an object"):
        sync(sandbox)


def test_an_empty_last_page_ends_the_list(sandbox: Sandbox) -> None:
    sandbox.fail(faults.page(sandbox, lambda page: page.update(data=[])), at=5, times=2)

    assert len(sync(sandbox).records) == 400


def test_a_cursor_beside_has_more_false_is_not_followed(sandbox: Sandbox) -> None:
    sandbox.fail(
        faults.page(sandbox, set_meta(has_more=False, next_cursor="more")),
        at=2,
        times=2,
    )

    assert len(sync(sandbox).records) == 200


@pytest.mark.parametrize("back", [1, 2, 3])
def test_a_cursor_seen_before_is_an_error(sandbox: Sandbox, back: int) -> None:
    """A-A, A-B-A, and a longer loop."""
    cursors: list[str] = []

    def remember(page: dict[str, Any]) -> None:
        cursors.append(page["meta"]["next_cursor"])

    for at in (1, 2, 3):
        sandbox.fail(faults.page(sandbox, remember), at=at)
    sandbox.fail(
        faults.page(
            sandbox, lambda page: page["meta"].update(next_cursor=cursors[-back])
        ),
        at=4,
    )

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox)

    sentence = "A page of the list leads back to a page that was read already."
    assert str(error.value).startswith(sentence)
    assert len(sandbox.requests) == 4


def test_a_cursor_that_the_api_cannot_read_is_an_error(sandbox: Sandbox) -> None:
    """Laravel answers it with the first page again, without an error."""
    sandbox.fail(faults.page(sandbox, set_meta(next_cursor="garbled")), at=2)

    with pytest.raises(FatalAPIError) as error:
        sync(sandbox)

    assert len(sandbox.requests) == 3
    sentence = "A page of the list leads back to a page that was read already."
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("keys", [range(100), range(0, 200, 2)])
def test_rows_by_number_are_a_page(sandbox: Sandbox, keys: range) -> None:
    """As PHP writes a list with gaps, which Laravel makes of a filtered collection."""

    def by_number(page: dict[str, Any]) -> None:
        page["data"] = dict(zip(map(str, keys), page["data"], strict=True))

    sandbox.fail(faults.page(sandbox, by_number), at=2)

    assert sync(sandbox).ids == sync(sandbox).ids
    assert len(sync(sandbox).ids) == 450


@pytest.mark.parametrize("data", [{}, {"a": {"id": 1}}, {"0": {"id": 1}, "x": 2}])
def test_any_other_object_is_no_page(sandbox: Sandbox, data: Any) -> None:
    sandbox.fail(faults.page(sandbox, lambda page: page.update(data=data)), at=2)

    with pytest.raises(FatalAPIError, match="'data' that is not a list"):
        sync(sandbox)
