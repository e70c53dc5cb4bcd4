"""Waiting for something that another process does."""

import time


def wait_for(condition, what, timeout=30.0, interval=0.02):
    """Calls `condition` until it returns something true, and returns that. Fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(interval)
