"""What a run ran on."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "jaxloss", "optax", "numpy", "torch", "keras", "flax", "equinox")
PROCESSORS = Path("/proc/cpuinfo")
# the widest first
VECTORS = {"avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}


def facts() -> dict[str, Any]:
    """Versions, device, threads and load."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else processor(),
        "platform": device.platform,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": os.cpu_count(),  # of XLA and of torch, each
        "load before": round(os.getloadavg()[0], 2),
        "versions": {name: known for name in PACKAGES if (known := _version(name))},
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """Its name and its widest vectors, where Linux says; a cloud gives many machines one name."""
    text = PROCESSORS.read_text() if PROCESSORS.exists() else ""
    said = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in text.splitlines())}
    name = said.get("model name", platform.processor() or platform.machine())
    flags = said.get("flags", "").split()
    vectors = next((name for flag, name in VECTORS.items() if flag in flags), "")
    return f"{name}, {vectors}" if vectors else name


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def sentence(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {known}" for name, known in machine["versions"].items())
    size = f"{machine['cores']} cores, {machine.get('threads', '?')} threads"
    load = f"load {machine['load before']} before and {machine.get('load after', '?')} after"
    return (
        f"{machine['device']}, {size}, {load}; {versions}, Python {machine['python']}; "
        f"{machine['date']}"
    )
