"""`sharpkeras cost`"""

import json

import click

from sharpkeras_cli import options

SIZES = {  # stem, pixels, classes, init_channels, num_cells (Table 2 and 3)
    "cifar10": ("cifar", 32, 10, 36, 20),
    "imagenet": ("imagenet", 224, 1000, 48, 14),
}


@click.command("cost")
@click.argument("architecture")
@click.option("--for", "size", type=click.Choice(tuple(SIZES)), default="cifar10", show_default=True, help="Network.")
@click.option("--ops", type=click.Choice(("sharp", "darts")), default="sharp", show_default=True, help="Op table.")
@click.option("--init-channels", type=click.IntRange(2), help="Channels of the first cell.  [36, ImageNet 48]")
@click.option("--num-cells", type=click.IntRange(1), help="Cells.  [20, ImageNet 14]")
@click.option("--mid-channels", type=click.IntRange(1), help="Middle channels of the choke primitives.  [32]")
@click.option("--final-filters", type=click.IntRange(1), help="Filters before the classifier of a path.  [768]")
@click.option("--num-classes", type=click.IntRange(2, 10**6), help="Classes.  [10, ImageNet 1000]")
@click.option("--input-size", type=click.IntRange(4, 4096), help="Pixels per side.  [32, ImageNet 224]")
@options.as_json
def command(
    architecture, size, ops, init_channels, num_cells, mid_channels, final_filters, num_classes, input_size, as_json
):
    """Parameters and AddMults of an ARCHITECTURE.

    A run, a genotype or path file, or a published name; exact integers. The auxiliary head does not count, as in
    the paper.
    """
    options.choose_backend()
    from sharpkeras import experiment
    from sharpkeras.recipes import TrainRecipe

    stem, pixels, classes, channels, cells = SIZES[size]
    recipe = TrainRecipe(
        ops=ops,
        stem=stem,
        init_channels=init_channels or channels,
        num_cells=num_cells or cells,
        mid_channels=mid_channels,
        final_filters=final_filters or TrainRecipe().final_filters,
    )
    found = experiment.architecture(architecture)
    side = input_size or pixels
    cost = experiment.count_cost(found, recipe, (side, side, 3), num_classes or classes)
    if as_json:
        click.echo(json.dumps({"architecture": architecture, **cost._asdict()}))
        return
    sizes = {
        "genotype": f"for {size}: {recipe.init_channels} channels, {recipe.num_cells} cells, {ops} ops",
        "path": f"for {side} pixels: {recipe.final_filters} final filters",
    }
    click.echo(f"{architecture} {sizes[found.kind]}")
    click.echo(f"  parameters             {cost.parameters:>15,}")
    click.echo(f"  AddMults (paper)       {cost.addmults_paper:>15,}   with BatchNorm, ReLU and pooling")
    click.echo(f"  AddMults (conv, dense) {cost.addmults_conv_dense:>15,}   plain multiply-adds")
    options.say_next("train", architecture)
