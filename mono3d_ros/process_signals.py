"""
Signals of the node's process: SIGINT and SIGTERM end it with its own exit code, at any time.

A supervisor, or a second Ctrl-C, may send them while the process starts and while it ends. Needs
only the standard library, so that it works before the node's imports.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signals() -> None:
    """End the process with exit code 0 on a signal; for the imports, which take seconds."""
    _handle(signal.SIGINT, lambda *_: os._exit(0))
    _handle(signal.SIGTERM, lambda *_: os._exit(0))


class Interrupted(KeyboardInterrupt):
    """
    Ctrl-C that ends the process with the exit code of its main function.

    Python ends a process by SIGINT at its exit if a KeyboardInterrupt itself, not a subclass, left
    code that exec ran from text, as imports do, even if it was caught then.
    """


class FirstInterrupt:
    """Handler of SIGINT that raises Interrupted at its first call only."""

    def __init__(self) -> None:
        """Start without any signal."""
        self.was_called = False

    def __call__(self, *_: Any) -> None:
        """Raise Interrupted, once."""
        if not self.was_called:
            self.was_called = True
            raise Interrupted


def interrupt_once() -> FirstInterrupt:
    """Raise Interrupted on the first SIGINT only; leave SIGTERM to ROS."""
    handler = FirstInterrupt()
    _handle(signal.SIGINT, handler)
    _handle(signal.SIGTERM, signal.SIG_DFL)
    return handler


def ignore_signals() -> None:
    """Ignore signals from now on: the process is ending, and Python resets other handlers."""
    for number in SIGNALS:
        _handle(number, signal.SIG_IGN)


def _handle(number: signal.Signals, handler: Any) -> None:
    """Set a handler; only the main thread may, and tests run the node in others."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
