"""`sharpkeras list`"""

import json

import click

from sharpkeras.recipes import SEARCHES, TRAININGS
from sharpkeras_cli import options

TOPICS = ("genotypes", "spaces", "datasets", "recipes")


@click.command("list")
@click.argument("topic", type=click.Choice(TOPICS), required=False)
@options.as_json
def command(topic, as_json):
    """Published genotypes, spaces, datasets and recipes."""
    topics = (topic,) if topic else TOPICS
    found = {name: _items(name) for name in topics}
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, items in found.items():
        click.echo(name)
        for key, text in items.items():
            click.echo(f"  {key:26} {text if isinstance(text, str) else ', '.join(text)}")
    options.say_next("quickstart")


def _items(topic):
    """Name → one line of text or a list of names."""
    if topic == "datasets":
        from sharpkeras.data import DATASETS

        return {name: row.description for name, row in DATASETS.items()}
    if topic == "recipes":
        return {
            **{f"search --recipe {name}": _summary(recipe) for name, recipe in SEARCHES.items()},
            **{f"train --recipe {name}": _summary(recipe) for name, recipe in TRAININGS.items()},
        }
    options.choose_backend()
    if topic == "spaces":
        from sharpkeras.primitives import PRIMITIVES

        return {name: list(names) for name, names in PRIMITIVES.items()}
    from sharpkeras import published

    return {name: _cells(published.genotype(name)) for name in published.names()}


def _summary(recipe):
    return (
        f"{recipe.dataset}, {recipe.init_channels} channels, {recipe.num_cells} cells, {recipe.epochs} epochs, "
        f"batch {recipe.batch_size}, learning rate {recipe.learning_rate} → {recipe.min_learning_rate}"
    )


def _cells(genotype):
    names = sorted({name for name, _ in genotype.normal + genotype.reduce})
    return f"{len(genotype.normal) // 2} nodes; {', '.join(names)}"
