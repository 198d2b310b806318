"""`sharpkeras cost`"""

import json

import click

from sharpkeras_cli import options


@click.command("cost")
@click.argument("architecture")
@options.network_sizes
@options.as_json
def command(architecture, sizes, as_json):
    """Parameters and AddMults of an ARCHITECTURE.

    A run, a genotype or path file, or a published name; exact integers. The auxiliary head does not count, as in
    the paper.
    """
    options.choose_backend()
    from sharpkeras import experiment

    recipe, (side, *_), _ = sizes
    found = experiment.architecture(architecture)
    cost = experiment.count_cost(found, *sizes)
    if as_json:
        click.echo(json.dumps({"architecture": architecture, **cost._asdict()}))
        return
    size = {"cifar": "cifar10", "imagenet": "imagenet"}[recipe.stem]
    words = {
        "genotype": f"for {size}: {recipe.init_channels} channels, {recipe.num_cells} cells, {recipe.ops} ops",
        "path": f"for {side} pixels: {recipe.final_filters} final filters",
    }
    click.echo(f"{architecture} {words[found.kind]}")
    click.echo(f"  parameters             {cost.parameters:>15,}")
    click.echo(f"  AddMults (paper)       {cost.addmults_paper:>15,}   with BatchNorm, ReLU and pooling")
    click.echo(f"  AddMults (conv, dense) {cost.addmults_conv_dense:>15,}   plain multiply-adds")
    options.say_next("train", architecture)
