"""What is muted comes back as it was."""

from __future__ import annotations

import logging
import sys

import pytest

from edge_stra.quiet import quiet_tools


@pytest.mark.parametrize("before", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_logging_is_as_disabled_afterwards_as_it_was(before: int) -> None:
    logging.disable(before)
    try:
        with quiet_tools():
            assert not logging.getLogger().isEnabledFor(logging.WARNING)
            assert logging.getLogger().isEnabledFor(logging.ERROR) == (before < logging.ERROR)
            with quiet_tools():
                pass
            assert not logging.getLogger().isEnabledFor(logging.WARNING), "the inner one does not lift the outer"
        assert logging.root.manager.disable == before
    finally:
        logging.disable(logging.NOTSET)


def test_a_service_without_a_console_is_quiet_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with quiet_tools():
        pass
