"""Logs: structlog to stderr, for people on a terminal and as JSON elsewhere. Normal operation writes few lines."""

from __future__ import annotations

import logging
import sys

import structlog


def set_up(level: int = logging.INFO, *, json: bool | None = None) -> None:
    """Configure structlog for this process; every line goes to stderr, since stdout is for data."""
    as_json = not sys.stderr.isatty() if json is None else json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
