"""Values that people give in a notebook, on the command line or in Python: read as what is meant, or refused."""

from __future__ import annotations

import importlib
import math
import operator
import re
import sys
import tempfile
from collections.abc import Collection
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ecgnb.errors import EcgnbError

COUNT, POSITIVE, SEED = ">= 1", "> 0", ">= 0 and < 4294967296"  # the largest seed that Keras and NumPy both take
EPSILON = ">= 0 and <= 1000000"  # finite in float32, whatever the unit
COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
WORDS = {word: i > 2 for i, word in enumerate(("false", "no", "0", "true", "yes", "1"))}
Allowed = str | Collection[str]  # a range such as ">= 0 and < 1", or the words that there are


def read(name: str, value: Any, example: Any, allowed: Allowed = "") -> Any:
    """`value` as the type of `example`: bool, int, float or str.

    Text is read where it has one meaning ("false", "2e1", "1/255"): papermill, YAML and the shell hand on as text what
    they do not know. allowed : "" for all values of that type; numbers must be finite.
    Raises EcgnbError, in one line with the name, the value and an example.
    """
    found: Any
    try:
        if isinstance(example, bool):
            found = WORDS[str(value).strip().lower()]
        elif isinstance(example, str):
            found = _text(value)
        else:
            found = _whole(value) if isinstance(example, int) else _number(value)
        if not _is_allowed(found, allowed):
            raise ValueError(value)
    except (ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise EcgnbError(f"{name}={value!r}: expected {_wanted(example, allowed)}") from error
    return found


def _number(value: Any) -> Any:
    if isinstance(value, str):
        return float(Fraction(value) if "/" in value else value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(value)
    return value


def _whole(value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.strip().isdecimal() else _number(value)
    if isinstance(number, Integral) or number == int(number):
        return int(number)
    raise ValueError(value)


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value)  # settings that name several things take them split by spaces
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise TypeError(value)


def _is_allowed(value: Any, allowed: Allowed) -> bool:
    if not isinstance(allowed, str):
        return value in allowed
    limits = (limit.split() for limit in allowed.split(" and ") if limit)
    return (isinstance(value, str) or math.isfinite(value)) and all(
        COMPARISONS[sign](value, float(number)) for sign, number in limits
    )


def _wanted(example: Any, allowed: Allowed) -> str:
    if isinstance(example, bool):
        return "true or false"
    if not isinstance(allowed, str):
        return " or ".join(word or '""' for word in allowed)
    if isinstance(example, str):
        return f'text, such as "{example}"'
    kind = "a whole number" if isinstance(example, int) else "a number"
    return " ".join(word for word in (kind, allowed) if word) + f", such as {example}"


def check_folder(name: str, folder: Path) -> None:
    """Make a folder for results. Raises EcgnbError, before any work is done, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise EcgnbError(f"{name}={folder}: no folder to write to ({error.strerror}), give another") from error


def is_import(name: Any) -> bool:
    """Whether a name means `package.module:object`, and no file."""
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", str(name))) and not Path(name).exists()


def imported(name: str) -> Any:
    """What `package.module:object` names: code of the user's own, imported from the working folder."""
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise EcgnbError(f"{name}: cannot be imported from {Path.cwd()} ({error}); give module:object") from error
