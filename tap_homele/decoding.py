"""Parse JSON without losing a digit or a character."""

from __future__ import annotations

import json
import typing as t
from decimal import Decimal, InvalidOperation

import msgspec

from tap_homele.records import storable

# JSON numbers have no bounds, and databases do: what is beyond 10^1000, or is written
# with more characters than these, becomes text.
MAX_EXPONENT = 1000
MAX_LENGTH = 10_000


def _number(text: str) -> Decimal | str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    too_long = len(text) > MAX_LENGTH or abs(number.adjusted()) > MAX_EXPONENT
    return text if too_long else number


def _whole_number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # Python reads 4,300 digits
        return text


def _no_number(text: str) -> t.NoReturn:
    raise ValueError(f"{text} is not JSON")


_decoder = msgspec.json.Decoder(float_hook=_number)


def decode(body: bytes) -> t.Any:
    """Parse the body of an answer.

    Returns:
        Its JSON, in the characters of ``records.storable``. Numbers with a fraction or
        an exponent are ``Decimal``; a number that is too long is text.

    Raises:
        ValueError: If it is not JSON, or nested too deeply to be read.
    """
    try:
        return _decode(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decode(body: bytes) -> t.Any:
    try:
        value = _decoder.decode(body)
    except msgspec.DecodeError:
        # msgspec does not take all that JSON can spell: half a pair of surrogates,
        # integers of thousands of digits.
        value = json.loads(
            body,
            parse_float=_number,
            parse_int=_whole_number,
            parse_constant=_no_number,
        )
        return storable(value)
    return storable(value) if b"\\u0000" in body else value
