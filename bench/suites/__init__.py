"""One module for each suite: `rows(options)`, and where its workloads are data, `workloads`."""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = (
    "limit",
    "pointwise",
    "classes",
    "structured",
    "fused",
    "sharded",
    "step",
    "accuracy",
    "startup",
    "scaling",
)


def suite(name: str) -> ModuleType:
    return importlib.import_module(f"bench.suites.{name}")
