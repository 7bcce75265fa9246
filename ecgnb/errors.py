"""The one exception that a user is meant to read."""


class EcgnbError(Exception):
    """Bad input, in one line: what is wrong, in which file, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook, in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]
