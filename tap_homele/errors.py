"""The errors of the tap: each has one sentence, with what to do."""

from singer_sdk.exceptions import FatalAPIError


class PageError(FatalAPIError):
    """A page cannot be read, however often it is asked for."""

    @property
    def what(self) -> str:
        """What happened, without what to do, for a warning of a run that goes on."""
        return str(self).partition(" Giving up")[0]


class CursorError(PageError):
    """The server itself fails (500) on a page that its cursor leads to."""


class TokenError(FatalAPIError):
    """The API does not accept the token, or not for this."""
