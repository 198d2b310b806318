"""`sharpkeras list`"""

import json
from collections.abc import Mapping
from typing import Any

import click

from sharpkeras.paper import published
from sharpkeras.recipes import SEARCHES, TRAININGS
from sharpkeras.recipes.rows import RecipeEntry
from sharpkeras.spaces import CELL, SPACES
from sharpkeras_cli import flags, options, tables

TOPICS = ("genotypes", "paths", "spaces", "datasets", "recipes")
COMMANDS: Mapping[str, Mapping[str, RecipeEntry]] = {"search": SEARCHES, "train": TRAININGS}


@click.command("list")
@click.argument("topic", type=click.Choice(TOPICS), required=False)
@options.as_json
def command(topic: str | None, as_json: bool) -> None:
    """Published genotypes and paths, spaces, datasets and recipes."""
    topics = (topic,) if topic else TOPICS
    found: dict[str, dict[str, Any]] = {name: _items(name) for name in topics}
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, items in found.items():
        if name == "recipes":
            for title in COMMANDS:
                _print_recipes(title, {key: row for key, row in items.items() if row["command"] == title})
            continue
        click.echo(name)
        width = max(map(len, items))
        for key, text in items.items():
            click.echo(f"  {key:{width}} {text if isinstance(text, str) else ', '.join(text)}")
    options.say_next("train", "sharpdarts", "--smoke")


def _items(topic: str) -> dict[str, Any]:
    """Name → one line of text, a list of names, or of a recipe everything."""
    if topic == "datasets":
        from sharpkeras.data import DATASETS

        return {name: row.description for name, row in DATASETS.items()}
    if topic == "recipes":
        rows = [(title, name, row) for title, rows in COMMANDS.items() for name, row in rows.items()]
        return {f"{title} {name}": _recipe(title, row) for title, name, row in rows}
    options.choose_backend()
    if topic == "spaces":
        from sharpkeras.primitives import PRIMITIVES

        others = {name: row.summary for name, row in SPACES.items() if name != CELL}
        return {**{name: list(names) for name, names in PRIMITIVES.items()}, **others}
    if topic == "paths":
        return {name: _route(published.path(name)) for name in published.path_names()}
    return {name: _cells(published.genotype(name)) for name in published.names()}


def _recipe(title: str, row: RecipeEntry) -> dict[str, Any]:
    return {
        "command": title,
        "summary": row.summary,
        "architecture": row.architecture,
        "printed": published.printed(row),
        "note": flags.rendered(row.note),
        "settings": row.settings.as_dict(),
    }


def _print_recipes(title: str, items: Mapping[str, Any]) -> None:
    """A table of recipes with the figures that the paper prints for each."""
    records = []
    for key, item in items.items():
        printed = item["printed"] or {}
        sizes = (f"{printed['params_m']} M", options.addmults_printed(printed)) if printed else (None, None)
        records.append(
            {
                "recipe": key.partition(" ")[2],
                "what": item["summary"],
                "genotype": item["architecture"] or "",
                "parameters": tables.whole(sizes[0]),
                "AddMults": tables.whole(sizes[1]),
                "error printed": ", ".join(map(tables.whole, options.errors_printed(printed))),
            }
        )
    tables.show(records, title=f"sharpkeras {title} RECIPE", right=("parameters", "AddMults"), width=150)


def _route(path: Any) -> str:
    """The filters of a path, with a p where it pools."""
    choices = [dict(choice) for choice in path.routes[0]]
    return " ".join(f"{c['filters']}{'p' * (c.get('primitive') == 'ResizablePool')}" for c in choices)


def _cells(genotype: Any) -> str:
    names = sorted({name for name, _ in genotype.normal + genotype.reduce})
    return f"{len(genotype.normal) // 2} nodes; {', '.join(names)}"
