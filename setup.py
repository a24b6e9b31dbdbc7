"""The package ``forecourt``; remote runs ship it with ``--setup_file=./setup.py``."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

_HERE = Path(__file__).parent
_TOP = ("benchmarks", "deploy", "expectations", "experiments", "pipelines", "rules", "schemas", "serving", "transforms")

setup(
    name="forecourt",
    version="0.1.0",
    description="The one featured listing each visitor of a vehicle marketplace most likely wants, in real time.",
    python_requires=">=3.11",
    py_modules=["forecourt"],
    packages=find_namespace_packages(str(_HERE), include=[pattern for top in _TOP[2:] for pattern in (top, f"{top}.*")]),
    package_data={"rules": ["*.yaml"]},
    install_requires=[line for line in (_HERE / "requirements.in").read_text().splitlines() if line and not line.startswith("#")]
    if (_HERE / "requirements.in").exists()
    else [],
    entry_points={"console_scripts": ["forecourt=forecourt:main"]},
)
