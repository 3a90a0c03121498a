"""The list of stages, and how each becomes a worker. Reading order is data order: route → identify → merge."""

from __future__ import annotations

from processors.engine import Engine
from processors.identify import IdentifyStage
from processors.mapping import compile_plans
from processors.merge_stage import MergeStage
from processors.route import RouteWorker
from tidelock.context import Context


def route(context: Context, _system: str = "") -> RouteWorker:
    """Make the worker that sends changes to their record's journal, or to identify."""
    return RouteWorker(context)


def identify(context: Context, _system: str = "") -> Engine:
    """Make the worker that decides which native records are one record."""
    return Engine(context, IdentifyStage(context, compile_plans(context.config)))


def merge(context: Context, _system: str = "") -> Engine:
    """Make the worker that folds journals into golden records and writes."""
    return Engine(context, MergeStage(context, compile_plans(context.config)))
