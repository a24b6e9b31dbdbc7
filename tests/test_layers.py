"""Who may import whom: the arrows of the design, read from every import statement, also those inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

import pytest

from tests.strategies import ROOT

FOLDERS: Final = ("schemas", "transforms", "pipelines", "serving", "experiments", "expectations", "rules")
MAY_IMPORT: Final = {
    "schemas": {"schemas"},
    "serving": {"schemas", "serving", "experiments"},
    "experiments": {"schemas", "experiments"},
    "expectations": {"schemas", "expectations"},
    "transforms": {"schemas", "transforms", "serving.store", "serving.recent", "serving.keys"},
    "pipelines": {*FOLDERS},
    "rules": {"rules"},
}
ONLY_IN: Final = {
    "apache_beam": {"transforms", "pipelines"},
    "google": {"pipelines", "serving.store", "serving.keys_secret_manager"},
    "great_expectations": {"expectations"},
    "tests": set[str](),
    "benchmarks": set[str](),
}


def imports(folder: str) -> Iterator[tuple[str, str]]:
    """(module, what it imports) of a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: imports are written out"
                yield module, node.module or ""


def within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_the_design_lets_it(folder: str) -> None:
    for module, name in imports(folder):
        if name.split(".")[0] in FOLDERS:
            assert within(name, MAY_IMPORT[folder]), f"{module} imports {name}"
        for package, places in ONLY_IN.items():
            assert not within(name, {package}) or within(module, places), f"{module} imports {name}"


@pytest.mark.parametrize("package", ["apache_beam", "great_expectations", "pandas", "transforms", "pipelines"])
def test_serving_stays_light(package: str) -> None:
    assert not [module for module, name in imports("serving") if within(name, {package})]
