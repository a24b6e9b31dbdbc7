"""The package ``forecourt``; remote runs ship it with ``--setup_file=./setup.py``."""

from pathlib import Path

from setuptools import find_packages, setup

_HERE = Path(__file__).parent
_PACKAGES = ("expectations", "experiments", "pipelines", "rules", "schemas", "serving", "transforms")

setup(
    name="forecourt",
    version="0.1.0",
    description="Shows each visitor of a vehicle marketplace the one featured listing they most likely want, in real time.",
    python_requires=">=3.11",
    py_modules=["forecourt"],
    packages=find_packages(str(_HERE), include=[pattern for name in _PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={"pipelines": ["*.j2"], "rules": ["*.yaml"]},
    install_requires=[line for line in (_HERE / "requirements.in").read_text().splitlines() if line and not line.startswith("#")],
    entry_points={"console_scripts": ["forecourt=forecourt:main"]},
)
