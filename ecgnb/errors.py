"""The one exception that a user is meant to read."""


class EcgnbError(Exception):
    """Bad input, in one line: what is wrong, in which file, and what to do about it."""
