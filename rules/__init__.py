"""Segment rules and the attribute catalogue as shipped (YAML), and where they lie."""

from pathlib import Path
from typing import Final

CATALOGUE_PATH: Final = str(Path(__file__).with_name("attributes.yaml"))
RULES_PATH: Final = str(Path(__file__).with_name("segments.yaml"))
