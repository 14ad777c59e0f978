"""Builds the compiled code (`castor/nn/native.py`) when a wheel or an editable installation is made.

Where there is no compiler, the wheel is one for every machine, and the code is built when it is first needed.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledCode(BuildHookInterface):
    """Hatchling's way to build; never fails an installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before files are collected, and make the wheel one of this platform where it holds a library."""
        sys.path.insert(0, self.root)
        from castor.nn.native import install

        built, problem = install()
        if problem:
            self.app.display_info(f"castor: not all compiled code could be built: {problem}")
        if built:
            build_data["artifacts"] += [path.relative_to(self.root).as_posix() for path in built]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{platform.machine()}"
