"""``forecourt access mint``: a new bearer key for the gateway. Only its digest goes into the access file.

forecourt access mint --name search --role gateway >> access.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from schemas.errors import EXIT_OK
from serving.access import ROLES, mint


def run(argv: Sequence[str]) -> int:
    """Print the line for the access file on stdout, and the token, this once, on stderr."""
    parser = argparse.ArgumentParser(prog="forecourt access")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "mint", help="a new key", description="A new bearer key: its line on stdout, the token on stderr."
    )
    command.add_argument("--name", required=True, help="whose it is")
    command.add_argument("--role", required=True, metavar="ROLE", help=f"one of {', '.join(ROLES)}")
    options = parser.parse_args(argv)
    minted = mint(options.name, options.role)
    print(f"the token, shown only now: {minted.token}", file=sys.stderr)
    print(minted.line)
    return EXIT_OK
