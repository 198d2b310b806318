"""`sharpkeras cost`"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sharpkeras.recipes import DIGITS, TRAININGS
from sharpkeras_cli import options, tables

if TYPE_CHECKING:
    from sharpkeras.experiment.cost import SizedNetwork
    from sharpkeras.measure.cost import LayerCost
    from sharpkeras.spaces.search_space import SearchSpace


@click.command("cost")
@click.argument("architecture")
@options.network_sizes
@click.option("--per-layer", is_flag=True, help="Every layer, in the order of computation.")
@options.as_json
def command(architecture: str, sizes: Mapping[str, Any], per_layer: bool, as_json: bool) -> None:
    """Parameters and AddMults of an ARCHITECTURE.

    A run, a genotype or path file, or a published name; exact integers. A training run has sizes of its own, a search
    those of the network that is trained next; all others those of table 2, unless others are given. The auxiliary head
    does not count, as in the paper.
    """
    options.choose_backend()
    from sharpkeras.experiment.cost import sized_network
    from sharpkeras.measure import cost as costs
    from sharpkeras.spaces import SPACES

    network = sized_network(architecture, **sizes)
    cost, rows = costs.count(network.model), costs.per_layer(network.model) if per_layer else []
    if as_json:
        layers = {"layers": [row._asdict() for row in rows]} if per_layer else {}
        click.echo(json.dumps({"architecture": architecture, **cost._asdict(), **layers}))
        return
    if per_layer:
        _print_layers(rows)
    space, (side, *_) = SPACES[network.architecture.space].load(), network.spec.input_shape
    words = space.size_in_words(network.spec.recipe)
    click.echo(f"{architecture} for {side}×{side} pixels, {network.spec.num_classes} classes: {words}")
    click.echo(f"  parameters             {cost.parameters:>15,}")
    click.echo(f"  AddMults (paper)       {cost.addmults_paper:>15,}   with BatchNorm, ReLU and pooling")
    click.echo(f"  AddMults (conv, dense) {cost.addmults_conv_dense:>15,}   plain multiply-adds")
    following = ["evaluate", architecture] if network.is_training else _training(architecture, network, space)
    options.say_next(*following)


def _training(architecture: str, network: "SizedNetwork", space: type["SearchSpace"]) -> list[Any]:
    """The command that trains the network that was counted: on images of its size and with as many classes."""
    if network.has_own_sizes:
        return ["train", architecture]  # which reads the images of its search
    spec = network.spec
    side, *_ = spec.input_shape
    dataset = {10: "cifar10", 1000: "imagenet"}.get(spec.num_classes, "folder:PATH")
    natural = {"cifar10": 32, "imagenet": 224}.get(dataset)
    changes: dict[str, Any] = {"dataset": dataset, "image_size": None if side == natural else side}
    changes |= {name: getattr(spec.recipe, name) for name in space.network_settings}
    training = dataclasses.replace(TRAININGS[DIGITS].settings, **changes)
    return ["train", architecture, *options.trained_by(DIGITS, training)]


def _print_layers(rows: Sequence["LayerCost"]) -> None:
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
