"""Describes the installation and the machine."""

from __future__ import annotations

import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import numpy as np

from popgrad import _core

__all__ = ["EXTRAS", "installation", "machine", "memory_bytes"]

# The packages of each extra.
EXTRAS = {
    "report": ("plotly", "jinja2"),
    "torch": ("torch",),
    "test": ("pytest", "hypothesis", "pytest-xdist", "cmake", "ninja"),
}


def installation() -> dict[str, str]:
    """Version, instruction sets, bfloat16, threads, BLAS, CUDA and extras, each as a line of text."""
    sets = [name + ("" if runs else " (not on this processor)") for name, runs in _core.isas().items()]
    devices = _core.cuda_devices()
    cuda = f"built, {devices} device{'s' * (devices != 1)} available" if _core.cuda_built() else "not built"
    return {
        "popgrad": version("popgrad"),
        "instruction sets": f"{_core.isa()} in use; built: {', '.join(sets)}",
        "bfloat16": f"multiplied by {_core.bfloat16()}" if _core.bfloat16() else "not supported: multiplied in float32",
        "threads": str(_core.threads()),
        "BLAS": _blas(),
        "CUDA": cuda,
        "extras": ", ".join(f"{name} {_present(packages)}" for name, packages in EXTRAS.items()),
    }


def _blas() -> str:
    """The BLAS that NumPy uses; the native core does not use a BLAS."""
    build = cast(dict[str, Any], np.show_config(mode="dicts") or {})
    blas = build.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')} (NumPy {np.__version__})".replace("  ", " ")


def _present(packages: tuple[str, ...]) -> str:
    missing = []
    for package in packages:
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    return f"missing ({', '.join(missing)})" if missing else "present"


def machine() -> dict[str, str | int | float]:
    """Describe the machine for the report of a study."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    described: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "instruction set": _core.isa(),
    }
    if (memory := memory_bytes()) < math.inf:
        described["memory_gib"] = round(memory / 2**30, 1)
    return described


def memory_bytes() -> float:
    """Bytes of memory in this machine, or infinity if the system does not report it."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
