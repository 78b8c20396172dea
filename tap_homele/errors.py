"""The errors of the tap: each has one sentence, with what to do."""

from singer_sdk.exceptions import FatalAPIError


class PageError(FatalAPIError):
    """A page cannot be read, however often it is asked for."""

    @property
    def what(self) -> str:
        """What happened, without what to do, for a warning of a run that goes on."""
        return str(self).partition(" Giving up")[0]


class ServerError(PageError):
    """The server itself fails (500) on a request, however often it is sent."""


class CursorError(PageError):
    """The server fails on requests with a cursor, and answers those without one."""


class OutageError(PageError):
    """There is no answer, however often a request is sent: not for this one alone."""


class TokenError(FatalAPIError):
    """The API does not accept the token, or not for this."""


class ForbiddenError(TokenError):
    """The API knows the token, and does not allow it this."""
