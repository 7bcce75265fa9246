"""Saving a notebook unchanged changes nothing in it, whichever Python runs it."""

import warnings


def without_python_version(model: dict, **_) -> None:
    """Leave out the version of Python, which Jupyter writes into each notebook that it saves."""
    if model["type"] == "notebook":
        model["content"]["metadata"].get("language_info", {}).pop("version", None)


c.FileContentsManager.pre_save_hook = without_python_version  # noqa: F821  (c is Jupyter's)
warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")  # by itself, set twice
