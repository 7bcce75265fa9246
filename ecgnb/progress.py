"""Progress bars on long work."""

from __future__ import annotations

from collections.abc import Iterable

from tqdm.auto import tqdm


def bar(text: str, items: Iterable | None = None, **settings) -> tqdm:
    """A progress bar that begins with `text`, or a silent one without it; settings : of tqdm.

    An explicit `disable` would override TQDM_DISABLE=1, by which whoever stores an output turns all bars off.
    """
    return tqdm(items, desc=text, **settings, **({} if text else {"disable": True}))
