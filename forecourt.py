"""The command line. Every command is imported only when it runs, so that looking a user up doesn't load Beam.

Exit status: 0 ok, 1 the job failed, 2 bad arguments or input that can't be used, 3 the quality gate said no.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import typer

from schemas.errors import EXIT_UNUSABLE_INPUT, ConfigError, ForecourtError

app = typer.Typer(
    name="forecourt",
    help="Segments of a vehicle marketplace's users, in real time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
store_app = typer.Typer(help="The table of profile rows.", no_args_is_help=True)
app.add_typer(store_app, name="store")
rules_app = typer.Typer(help="The segment rules.", no_args_is_help=True)
app.add_typer(rules_app, name="rules")
experiment_app = typer.Typer(help="Experiments on the featured listing.", no_args_is_help=True)
app.add_typer(experiment_app, name="experiment")
access_app = typer.Typer(help="Who may ask the gateway.", no_args_is_help=True)
app.add_typer(access_app, name="access")
keys_app = typer.Typer(help="The pseudonym keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
_GROUPS: Final = {"store": store_app, "rules": rules_app, "experiment": experiment_app, "access": access_app, "keys": keys_app}

_PASS_ON: Final[dict[str, Any]] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_ROWS_AT_ONCE: Final = 500

StoreOption = Annotated[str, typer.Option(help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")]
RulesOption = Annotated[str | None, typer.Option(help="segment rules (YAML); default: those shipped")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON on stdout and nothing else")]


_PARSE_THEMSELVES: Final = {
    "stream": ("pipelines.stream", "The speed layer: events in, segment rows out."),
    "archive": ("pipelines.archive", "Every valid event to Parquet, by event date."),
    "nightly": ("pipelines.nightly", "A day of the archive evaluated, judged and published."),
    "backtest": ("pipelines.backtest", "A rule change tried on archived days before it ships."),
    "simulate": ("pipelines.simulate", "Reproducible traffic of a marketplace, to Pub/Sub or a file."),
    "forget": ("pipelines.forget", "People forgotten everywhere, and a search that shows it."),
    "retention": ("pipelines.retention", "What is older than it may be, told or deleted."),
    "identity": ("pipelines.identity", "Whose an id is, which are linked to it, and why; a wrong link undone."),
    "export": ("pipelines.export", "All that is held of a person, as JSON."),
    "replay-dead-letters": ("pipelines.replay", "Dead letters back to where events come from."),
    "demo": ("pipelines.demo", "A simulated marketplace through the stream, its users' segments as a table."),
    "emulators": ("pipelines.emulators", "Google's Pub/Sub and Bigtable emulators, for as long as needed."),
    "serve": ("pipelines.serve", "The gateway: segments and featured listings over HTTP."),
    "conflicts": ("pipelines.conflicts", "Segments that clash with what visitors filter for, worst first."),
    "experiment assign": ("pipelines.assign", "Which arm a session or a user is in."),
    "experiment analyse": ("pipelines.analyse", "What came of an experiment, from its sessions table."),
    "experiment srm": ("pipelines.srm", "Whether the arms got the shares of units that they were meant to."),
    "experiment sessions": ("pipelines.experiment", "The sessions table of an experiment, from the archive."),
    "experiment power": ("pipelines.power", "How many sessions and days an experiment needs."),
    "experiment report": ("pipelines.experiment_report", "What came of an experiment, as a page with plots."),
    "experiment controller": ("pipelines.controller", "Segments ramped up or rolled back, by their always-valid effects."),
    "experiment bandit": ("pipelines.bandit", "The share each arm should get next, by segment; values of other policies."),
    "access mint": ("pipelines.access", "A new bearer key for the gateway."),
    "keys status": ("pipelines.keys", "What is left under each pseudonym key, and which may be destroyed."),
    "keys add": ("pipelines.keys", "A new pseudonym key that is known and doesn't write yet."),
    "keys promote": ("pipelines.keys", "Make a pseudonym key the one that writes."),
    "keys rotate": ("pipelines.keys", "Move all rows, and an archive's events, to the key that writes."),
    "keys destroy": ("pipelines.keys", "Destroy a pseudonym key that nothing needs any more."),
    "rules publish": ("pipelines.release", "Keep a rule set as an immutable version; the folder's first becomes active."),
    "rules canary": ("pipelines.release", "Put a version on trial: the answer for some users, a shadow for the others."),
    "rules promote": ("pipelines.release", "Make the version on trial the active one."),
    "rules rollback": ("pipelines.release", "Drop the version on trial; without one, back to the version active before."),
    "rules history": ("pipelines.release", "Who changed what, when and why."),
    "rules status": ("pipelines.release", "What is active, on trial and published."),
    "rules compare": ("pipelines.release", "Whom the version on trial would put into or out of each segment."),
}


def _run(name: str, argv: Sequence[str]) -> int:
    """Run a command that has a parser of its own: its module's ``run(argv)`` gives the exit status.

    In a group, ``argv`` starts with the command's name there.
    """
    status: int = importlib.import_module(_PARSE_THEMSELVES[name][0]).run([*name.split()[1:], *argv])
    return status


def _listed(name: str, text: str) -> None:
    """List such a command in the help; ``main`` runs it before Typer, which would swallow a ``--`` among its arguments."""

    def run(context: typer.Context) -> None:
        raise typer.Exit(_run(name, context.args))

    *group, command = name.split()
    (_GROUPS[group[0]] if group else app).command(command, help=text, context_settings=_PASS_ON)(run)


for _name, (_, _text) in _PARSE_THEMSELVES.items():
    _listed(_name, _text)


@store_app.command("init")
def store_init(store: StoreOption) -> None:
    """Create what is missing: table, families, GC rules; the SQLite file. Safe to repeat."""
    from serving.store import open_store

    created = open_store(store).init()
    typer.echo(f"{store}: " + (f"created {', '.join(created)}" if created else "all there"), err=True)


@app.command()
def segments(
    user: Annotated[str, typer.Argument(help="a raw id; - reads ids from stdin, one a line, one document a line goes out")],
    store: StoreOption,
    at: Annotated[str | None, typer.Option(help="the instant, RFC 3339; default: now")] = None,
    as_json: JsonOption = False,
) -> None:
    """What the gateway would see of a user: segments, highest score first."""
    from pipelines.options import instant_in
    from schemas.instants import clock_ms, format_instant
    from schemas.pseudonym import Pseudonyms
    from serving.keys import load_ring
    from serving.segments import segments_document
    from serving.store import open_store
    from serving.whose import opted_out, read_rows_of
    from serving.withdrawn import withdrawn_in

    instant = instant_in("--at", at, clock_ms())
    rows, pseudonyms = open_store(store), Pseudonyms(load_ring(store))
    withdrawn = withdrawn_in(rows)
    refused = 0
    for users in _pages(_ids(user)):
        found = read_rows_of(rows, pseudonyms, users)
        for each in users:
            try:
                membership = None if opted_out(found[each]) else found[each].membership
                document = segments_document(each, membership, instant, withdrawn)
            except ConfigError as fault:
                if user != "-":
                    raise
                refused += 1
                document = {"user": each, "at": format_instant(instant), "segments": None, "error": str(fault)}
            if as_json or user == "-":
                print(json.dumps(document))
            else:
                _print_segments(document, "opted out" if opted_out(found[each]) else "no row")
    if refused:
        msg = f"{refused} users' segments can't be told at {format_instant(instant)}, see their documents"
        raise ConfigError(msg)


@rules_app.command("check")
@app.command("rules-check")
def rules_check(
    rules: Annotated[str, typer.Argument(help="segment rules (YAML)")],
    catalogue: Annotated[str | None, typer.Option(help="attribute catalogue (YAML); default: the one shipped")] = None,
    as_json: JsonOption = False,
) -> None:
    """Whether a rules file can be used; else file, place, value and what would be right."""
    from rules import CATALOGUE_PATH
    from transforms.rules_file import load_catalogue, load_rules

    rule_set = load_rules(rules, load_catalogue(catalogue or CATALOGUE_PATH))
    if as_json:
        print(json.dumps({"version": rule_set.version, "segments": [rule.name for rule in rule_set.rules]}))
    else:
        typer.echo(f"{rules}: version {rule_set.version}, {len(rule_set.rules)} segments, all good")


def main() -> None:
    """Run the command line; a fault of ours is one line on stderr and its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        for words in (1, 2):
            if (name := " ".join(sys.argv[1 : 1 + words])) in _PARSE_THEMSELVES:
                sys.exit(_run(name, sys.argv[1 + words :]))
        app()
    except ForecourtError as fault:
        print(f"forecourt: {fault}", file=sys.stderr)
        sys.exit(fault.exit_status)
    except BrokenPipeError:
        sys.exit(EXIT_UNUSABLE_INPUT)


def _ids(user: str) -> Iterator[str]:
    if user != "-":
        yield user
        return
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\r\n")


def _pages(ids: Iterable[str]) -> Iterator[list[str]]:
    page: list[str] = []
    for each in ids:
        page.append(each)
        if len(page) == _ROWS_AT_ONCE:
            yield page
            page = []
    if page:
        yield page


def _print_segments(document: dict[str, Any], otherwise: str) -> None:
    from rich.console import Console
    from rich.table import Table

    if document["as_of"] is None:
        typer.echo(f"{document['user']}: {otherwise}")
        return
    table = Table(title=f"{document['user']} at {document['at']}, rules version {document['rule_version']}", title_justify="left")
    for column in ("segment", "score", "matching", "views", "until"):
        table.add_column(column, justify="left" if column in {"segment", "until"} else "right")
    for each in document["segments"]:
        table.add_row(each["name"], f"{each['score']:.3f}", str(each["matching"]), str(each["views"]), each["until"])
    Console().print(table if document["segments"] else f"{document['user']}: in no segment at {document['at']}")


if __name__ == "__main__":
    main()
