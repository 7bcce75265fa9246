"""Progress bars on long work."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tqdm.auto import tqdm


def bar(text: str, items: Iterable | None = None, **settings) -> tqdm:
    """A progress bar that begins with `text`, or a silent one without it; settings : of tqdm.

    TQDM_DISABLE=1 turns all bars off, also in Jupyter, where tqdm itself does not heed it: so that no bar
    is stored in a notebook.
    """
    silent = not text or os.environ.get("TQDM_DISABLE") == "1"
    return tqdm(items, desc=text, disable=silent, **settings)
