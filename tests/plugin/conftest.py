"""Inner pytest sessions that look the same on every machine."""

import pytest

# An inner session drops the modules it was the first to import, and importing the
# simulation anew for each of them is slow.
import rpcsim.harness
import rpcsim.report  # noqa: F401 - as above


@pytest.fixture(autouse=True)
def _plain_sessions(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the outer session's options and order plugins out of the inner ones."""
    # After `pytester`, which takes PYTEST_ADDOPTS away.
    # Hypothesis' plugin imports the whole of it at the end of every session.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly -p no:hypothesispytest")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
