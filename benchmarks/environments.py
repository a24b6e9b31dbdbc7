"""Environments of their own for what is measured beside us, under build/: our own pins must not decide their versions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent.parent / "build" / "benchmarks"
_LOG_TAIL_LINES: Final = 10
_VERSIONS: Final = """
import importlib.metadata, json
print(json.dumps({each.name.lower(): each.version for each in importlib.metadata.distributions()}))
"""
_BRINGS: Final = """
import importlib.metadata as metadata, json, sys
from pip._vendor.packaging.requirements import Requirement

def brings(name, found):
    for text in metadata.requires(name) or ():
        need = Requirement(text)
        if (need.marker is None or need.marker.evaluate({"extra": ""})) and need.name.lower() not in found:
            found.add(need.name.lower())
            brings(need.name, found)
    return found

print(json.dumps({name: sorted(brings(name, set())) for name in sys.argv[1:]}))
"""


class RequirementsError(RuntimeError):
    """An environment can't be made; the message has the end of what pip said."""


def environment(name: str, requirements: Path, say: Callable[[str], None]) -> Path:
    """The folder of an environment's programs; made when it isn't there or its requirements changed since."""
    folder = FOLDER / name
    made_of, wanted = folder / "requirements.txt", requirements.read_text()
    if not made_of.is_file() or made_of.read_text() != wanted:
        say(f"an environment for {name}, from {requirements.name}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "-r", str(requirements)], capture_output=True, text=True, check=False)
        if done.returncode:
            msg = "\n".join([f"{requirements} can't be installed:", *done.stderr.splitlines()[-_LOG_TAIL_LINES:]])
            raise RequirementsError(msg)
        made_of.write_text(wanted)
    return folder / "bin"


def versions(programs: Path) -> dict[str, str]:
    """What is installed in an environment, by lower-case name."""
    found: dict[str, str] = json.loads(_python(programs, _VERSIONS))
    return found


def brought_in(programs: Path, *names: str) -> dict[str, list[str]]:
    """The other packages that a package needs, directly or not, without extras."""
    found: dict[str, list[str]] = json.loads(_python(programs, _BRINGS, *names))
    return found


def _python(programs: Path, program: str, *arguments: str) -> str:
    done = subprocess.run([str(programs / "python"), "-c", program, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout
