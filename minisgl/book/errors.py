"""The one error of the book's tools."""


class BookError(Exception):
    """Something in the book needs a person; the message says what was expected, what came, and what to do."""
