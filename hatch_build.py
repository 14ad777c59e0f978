"""Builds `castor/nn/lowbit.c` where a C compiler is; without one, the package works all the same, slower at low bit.

Hatchling runs it for wheels and editable installs. By hand, in a checkout: python hatch_build.py
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE, LIBRARY = "castor/nn/lowbit.c", "castor/nn/_lowbit.so"
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fPIC", "-shared")


def build(root: Path) -> str | None:
    """Compile; None, or why it could not be done. A library from before is removed, as it may be of another version."""
    (root / LIBRARY).unlink(missing_ok=True)
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the products are for Linux on x86-64, not {sys.platform} on {platform.machine()}"
    compilers = (os.environ.get("CC", "").split() or [""], ["cc"], ["gcc"], ["clang"])
    compiler = next((words for words in compilers if words[0] and shutil.which(words[0])), None)
    if compiler is None:
        return "there is no C compiler"
    temporary = root / f"{LIBRARY}.{os.getpid()}"
    command = [*compiler, *FLAGS, "-o", str(temporary), str(root / SOURCE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"{' '.join(command)} failed: {done.stderr[-2000:]}"
        os.replace(temporary, root / LIBRARY)
    except OSError as error:
        return str(error)
    finally:
        temporary.unlink(missing_ok=True)
    return None


if __name__ == "__main__":
    problem = build(Path(__file__).parent)
    print(problem or f"built {LIBRARY}")
    sys.exit(problem is not None)

from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # noqa: E402


class Products(BuildHookInterface):
    """Hatchling's way to build; never fails an installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before files are collected, and make the wheel one of this platform where it holds the library."""
        problem = build(Path(self.root))
        if problem:
            self.app.display_warning(f"castor: compiled low-bit products are left out: {problem}")
            return
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
