"""Pytest plugin of `ci/test` under CI=true: whatever would be skipped fails, so that nothing is missing unseen."""

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return _failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return _failed_if_skipped((yield))


def _failed_if_skipped(report):
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"CI=true, and this would be skipped: {report.longrepr[-1]}"
    return report
