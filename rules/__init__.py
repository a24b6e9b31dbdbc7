"""Segment rules, the attribute catalogue and the bounds of the quality gate as shipped (YAML), and where they lie."""

from pathlib import Path
from typing import Final

CATALOGUE_PATH: Final = str(Path(__file__).with_name("attributes.yaml"))
RULES_PATH: Final = str(Path(__file__).with_name("segments.yaml"))
QUALITY_PATH: Final = str(Path(__file__).with_name("quality.yaml"))
SETTINGS_PATH: Final = str(Path(__file__).with_name("serving.yaml"))
