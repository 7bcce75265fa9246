"""Progress bars on long work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(text: str, items: Iterable | None = None, **settings) -> tqdm:
    """A progress bar that begins with `text`, or a silent one without it; settings : of tqdm.

    It is drawn on a terminal and in a running notebook, and gone when the work is done, so that none is stored in
    a notebook or a log. Work of less than a second has none. TQDM_DISABLE=1 turns all bars off.
    """
    in_notebook = hasattr(_shell(), "kernel")
    seen = in_notebook or sys.stderr.isatty()
    silent = not text or not seen or os.environ.get("TQDM_DISABLE") == "1"
    if in_notebook:
        settings |= {"file": _Line(), "mininterval": 0.5, "ascii": False}
    return tqdm(items, desc=text, disable=silent, leave=False, delay=1, **settings)


def _shell() -> Any:
    """The IPython shell that this process is, or None; IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


class _Line:
    """A file whose last line is shown in the notebook: plain text, updated in place, never a widget or stderr."""

    def __init__(self) -> None:
        self._handle: Any = None

    def write(self, text: str) -> None:
        from IPython.display import display

        shown = {"text/plain": text.strip()}
        if self._handle:
            self._handle.update(shown, raw=True)
        elif shown["text/plain"]:
            self._handle = display(shown, raw=True, display_id=True)

    def flush(self) -> None:
        """Nothing waits to be written."""
