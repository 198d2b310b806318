"""`sharpkeras cost`"""

import dataclasses
import json

import click

from sharpkeras.errors import UsageError
from sharpkeras.recipes import DIGITS, TRAININGS, network_sizes
from sharpkeras_cli import options, tables


@click.command("cost")
@click.argument("architecture")
@options.network_sizes
@click.option("--per-layer", is_flag=True, help="Every layer, in the order of computation.")
@options.as_json
def command(architecture, sizes, per_layer, as_json):
    """Parameters and AddMults of an ARCHITECTURE.

    A run, a genotype or path file, or a published name; exact integers. A training run has sizes of its own, a search
    those of the network that is trained next; all others those of table 2, unless others are given. The auxiliary head
    does not count, as in the paper.
    """
    options.choose_backend()
    import sharpkeras as sk
    from sharpkeras.experiment import builders, paper_tables
    from sharpkeras.measure import cost as costs

    own = paper_tables.sizes_of_run(architecture)
    is_trained = own is not None and paper_tables.is_training(architecture)
    if is_trained and sizes and not click.get_current_context().params["name"]:  # the rest would be those of table 2
        problem, allowed = "has sizes of its own", "none, or those of another network with --for"
        raise UsageError(problem, where=architecture, seen="some sizes", allowed=allowed)
    sizes = sizes or own or network_sizes()
    recipe, (side, *_), classes = sizes
    found = sk.architecture(architecture)
    network = builders.counted_network(found, *sizes)
    cost, rows = costs.count(network), costs.per_layer(network) if per_layer else []
    if as_json:
        layers = {"layers": [row._asdict() for row in rows]} if per_layer else {}
        click.echo(json.dumps({"architecture": architecture, **cost._asdict(), **layers}))
        return
    if per_layer:
        _print_layers(rows)
    words = {
        "genotype": f"{recipe.init_channels} channels, {recipe.num_cells} cells, {recipe.ops} ops",
        "path": f"{recipe.final_filters} final filters",
    }
    click.echo(f"{architecture} for {side}×{side} pixels, {classes} classes: {words[found.kind]}")
    click.echo(f"  parameters             {cost.parameters:>15,}")
    click.echo(f"  AddMults (paper)       {cost.addmults_paper:>15,}   with BatchNorm, ReLU and pooling")
    click.echo(f"  AddMults (conv, dense) {cost.addmults_conv_dense:>15,}   plain multiply-adds")
    options.say_next(*(("evaluate", architecture) if is_trained else _training(architecture, sizes, own, found)))


def _training(architecture, sizes, own, found):
    """The command that trains the network that was counted: on images of its size and with as many classes."""
    if sizes == own:
        return ["train", architecture]  # which reads the images of its search
    recipe, (side, *_), classes = sizes
    dataset = {10: "cifar10", 1000: "imagenet"}.get(classes, "folder:PATH")
    natural = {"cifar10": 32, "imagenet": 224}.get(dataset)
    changes = {"dataset": dataset, "image_size": None if side == natural else side}
    names = ("stem", "ops", "init_channels", "num_cells", "mid_channels") if found.kind == "genotype" else ()
    changes |= {name: getattr(recipe, name) for name in names or ("final_filters",)}
    training = dataclasses.replace(TRAININGS[DIGITS].settings, **changes)
    return ["train", architecture, *options.trained_by(DIGITS, training)]


def _print_layers(rows):
    counted = {"parameters": "parameters", "AddMults (paper)": "addmults_paper"}
    counted["AddMults (conv, dense)"] = "addmults_conv_dense"
    tables.show(
        [
            {
                "layer": row.name,
                "kind": row.layer,
                "output": "×".join(map(str, row.output_shape)),
                **{heading: f"{getattr(row, name):,}" for heading, name in counted.items()},
            }
            for row in rows
        ],
        right=counted,
        width=160,
    )
