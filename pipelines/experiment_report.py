"""What came of an experiment as one HTML page, with plots; it loads nothing from elsewhere.

forecourt experiment report --sessions FILE --unit session|user --to DIR|FILE.html [the options of analyse]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.effects import cap_of
from experiments.sequential import looks_of
from experiments.sessions import Sessions, triggered
from experiments.settings import AnalysisSettings
from experiments.srm import counts_by_look, log_bayes_factors
from pipelines.analyse import Config, add_options, analysed, config_of
from schemas.errors import EXIT_OK, ConfigError
from transforms.whole_files import replace_bytes

PAGE: Final = ".html"
NAMELESS: Final = "experiment"


def parse_args(argv: Sequence[str]) -> tuple[Config, str]:
    """The config in a command line, whose first word is ``report``, and where the page goes."""
    parser = argparse.ArgumentParser(prog="forecourt experiment report", description="What came of an experiment, as a page.")
    add_options(parser)
    parser.add_argument(
        "--to", required=True, metavar="DIR|FILE.html", help="where to; in a folder NAME.html, NAME by --experiment"
    )
    given = parser.parse_args(argv[1:])
    if not given.to:
        msg = "--to == '', must be a folder, or a file that ends in .html"
        raise ConfigError(msg)
    return config_of(given), given.to


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment report …``; the exit status."""
    config, to = parse_args(argv)
    document, units = analysed(config)
    path = write_page(document, units.sessions, config.settings, to)
    if config.as_json:
        print(json.dumps({**document, "page": path}, allow_nan=False))
    else:
        print(path)
    return EXIT_OK


def write_page(document: dict[str, Any], everyone: Sessions, settings: AnalysisSettings, to: str) -> str:
    """Write the page of a document and the screened sessions it is of; its path."""
    from pipelines.experiment_page import Course, page_of  # plots take a second to import

    core = triggered(everyone)
    looks = []
    if document["readable"]:
        looks = looks_of(core, np.minimum(core.vehicles, cap_of(core, settings)), None, settings.horizon, settings.alpha)
    course = Course(everyone.days, tuple(looks), ratio_ps(everyone, settings), ratio_ps(core, settings))
    path = page_path(to, settings.experiment)
    replace_bytes(path, page_of(document, course).encode())
    return path


def page_path(to: str, experiment: str | None) -> str:
    """The page's file.

    >>> page_path("pages", "New listing?"), page_path("page.html", None)
    ('pages/New_listing_.html', 'page.html')
    """
    if to.endswith(PAGE):
        return to
    return str(Path(to) / (re.sub(r"[^\w.-]", "_", experiment or NAMELESS, flags=re.ASCII) + PAGE))


def ratio_ps(sessions: Sessions, settings: AnalysisSettings) -> tuple[float, ...]:
    """The always-valid p-value of the sample ratio up to the end of each day: the last is that of ``srm.sequential_srm``."""
    counts = counts_by_look(sessions, settings.unit).astype(np.float64)
    if not counts.any():
        return ()
    weights = np.asarray(settings.weights, np.float64)
    evidence = np.maximum.accumulate(log_bayes_factors(counts, weights / weights.sum()))
    return tuple(np.exp(-np.clip(evidence, 0, 700)).tolist())
