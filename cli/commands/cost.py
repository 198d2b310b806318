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
    from sharpkeras.experiment import paper_tables
    from sharpkeras.measure import cost as costs
    from sharpkeras.spaces import SPACES

    own = paper_tables.sizes_of_run(architecture)
    is_trained = own is not None and paper_tables.is_training(architecture)
    if is_trained and sizes and not click.get_current_context().params["name"]:  # the rest would be those of table 2
        problem, allowed = "has sizes of its own", "none, or those of another network with --for"
        raise UsageError(problem, where=architecture, seen="some sizes", allowed=allowed)
    spec = sizes or own or network_sizes()
    found = sk.architecture(architecture)
    network = spec.build_without_auxiliary(found)
    cost, rows = costs.count(network), costs.per_layer(network) if per_layer else []
    if as_json:
        layers = {"layers": [row._asdict() for row in rows]} if per_layer else {}
        click.echo(json.dumps({"architecture": architecture, **cost._asdict(), **layers}))
        return
    if per_layer:
        _print_layers(rows)
    space, (side, *_) = SPACES[found.space].load(), spec.input_shape
    words = space.size_in_words(spec.recipe)
    click.echo(f"{architecture} for {side}×{side} pixels, {spec.num_classes} classes: {words}")
    click.echo(f"  parameters             {cost.parameters:>15,}")
    click.echo(f"  AddMults (paper)       {cost.addmults_paper:>15,}   with BatchNorm, ReLU and pooling")
    click.echo(f"  AddMults (conv, dense) {cost.addmults_conv_dense:>15,}   plain multiply-adds")
    options.say_next(*(("evaluate", architecture) if is_trained else _training(architecture, spec, own, space)))


def _training(architecture, spec, own, space):
    """The command that trains the network that was counted: on images of its size and with as many classes."""
    if spec == own:
        return ["train", architecture]  # which reads the images of its search
    side, *_ = spec.input_shape
    dataset = {10: "cifar10", 1000: "imagenet"}.get(spec.num_classes, "folder:PATH")
    natural = {"cifar10": 32, "imagenet": 224}.get(dataset)
    changes = {"dataset": dataset, "image_size": None if side == natural else side}
    changes |= {name: getattr(spec.recipe, name) for name in space.network_settings}
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
