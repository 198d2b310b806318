"""`sharpkeras inspect`"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpkeras.errors import LONGEST, printable
from sharpkeras_cli import flags, options

if TYPE_CHECKING:
    from sharpkeras.inspection.report import Report

LINES = 20  # of a fact with many parts
FINDINGS = 3  # exit code of --strict


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--strict", is_flag=True, help="End with exit code 3 where anything was found.")
@click.option("--repair", is_flag=True, help="Do what the plan for a run directory says.")
@options.as_json
def command(path: Path, strict: bool, repair: bool, as_json: bool) -> int:
    """What a file or run directory at PATH is, and whether it is sound.

    Nothing in it is run, and nothing is changed without --repair. Knows architectures, recipes, configs, metrics,
    reports, arrays (safetensors, npz, HDF5), Keras models, ONNX, images and run directories; others are named.
    """
    from sharpkeras import inspection

    report = inspection.inspect(path, repair)
    for texts in (report.findings, report.repaired, report.plan):
        texts[:] = map(flags.rendered, texts)
    if isinstance(report.next, str):
        report.next = flags.rendered(report.next)
    if as_json:
        click.echo(json.dumps(report.as_dict(), default=str))
    else:
        _show(report)
    return FINDINGS if strict and report.findings else 0


def _show(report: "Report") -> None:
    click.echo(f"{printable(report.path, LONGEST)}: {report.kind}")
    facts = {printable(name, 60): fact for name, fact in report.facts.items() if fact not in (None, "", [], {})}
    width = max(map(len, facts), default=0)
    for name, fact in facts.items():
        first, *more = _lines(fact)
        click.echo(f"  {name:{width}}  {first}")
        for line in more:
            click.echo(f"  {'':{width}}  {line}")
    for title, lines in (("found", report.findings), ("repaired", report.repaired), ("repair would", report.plan)):
        for line in lines:
            click.echo(f"{title}: {printable(line, LONGEST)}")
    if not report.findings:
        click.echo("sound: nothing is wrong with it")
    if isinstance(report.next, list):
        options.say_next(*report.next)
    elif report.next:
        click.echo(f"Next: {report.next}")


def _lines(fact: Any) -> list[str]:
    """A fact as lines: many parts one below the other, of very many the first."""
    if isinstance(fact, dict):
        lines = [f"{printable(name, LONGEST)}: {printable(part, LONGEST)}" for name, part in fact.items()]
    elif isinstance(fact, list):
        lines = [printable(part, LONGEST) for part in fact]
    else:
        lines = [f"{fact:,}" if isinstance(fact, int) else printable(fact, LONGEST)]
    return lines if len(lines) <= LINES else [*lines[:LINES], f"and {len(lines) - LINES:,} more"]
