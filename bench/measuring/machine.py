"""The description of the machine: CPU, memory, kernel, versions, commit."""

import os
import platform
import re
import subprocess
from pathlib import Path

from bench.paths import PYTHON, ROOT
from tests.database import rows


def describe(postgres_url: str) -> dict[str, str]:
    """Describe the machine and the software that is measured on it."""
    [postgres] = rows(postgres_url, "SHOW server_version")
    cpu = _lscpu()
    described = {
        "CPU": cpu_name(cpu),
        "MHz": _megahertz(cpu),
        "hypervisor": cpu.get("Hypervisor vendor", ""),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": _output(str(PYTHON), "--version").removeprefix("Python "),
        "PostgreSQL": str(postgres[0]),
    }
    return {name: value for name, value in described.items() if value}


def cpu_name(cpu: dict[str, str]) -> str:
    """Return the CPU's model name with family, model and stepping: cloud machines share one model name."""
    name = cpu.get("Model name") or platform.machine()
    numbers = ", ".join(
        f"{label} {cpu[field]}"
        for label, field in (("family", "CPU family"), ("model", "Model"), ("stepping", "Stepping"))
        if field in cpu
    )
    return f"{name} ({numbers})" if numbers else name


def _lscpu() -> dict[str, str]:
    fields = (line.partition(":") for line in _output("lscpu").splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def _megahertz(cpu: dict[str, str]) -> str:
    """Return the highest frequency; on a virtual machine that hides it, the frequency that the kernel measured."""
    if "CPU max MHz" in cpu:
        return f"{float(cpu['CPU max MHz']):.0f}"
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{float(found[1]):.0f}" if found else ""


def commit() -> str:
    """Return the commit of this tree, with ``+`` if files of the product have changed since; "" without git."""
    head = _output("git", "rev-parse", "--short=10", "HEAD")
    changed = _output("git", "status", "--porcelain", "--untracked-files=no", "--", ":!bench", ":!docs", ":!README.md")
    return head + "+" * bool(changed)


def _output(*command: str) -> str:
    """Return the output of a program; "" if it is missing or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - all commands are in this file
            command, cwd=ROOT, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
