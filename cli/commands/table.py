"""`sharpkeras table`"""

import json

import click

from sharpkeras_cli import options, tables


@click.command("table")
@click.argument("number", type=click.Choice(("2", "3", "4")))
@options.as_json
def command(number: str, as_json: bool) -> None:
    """Table 2, 3 or 4 of the paper: printed and measured.

    Parameters and AddMults on CIFAR-10 (2) and ImageNet (3), and of MultiChannelNet's paths (4). Every row whose
    architecture is published is built and counted; the others are shown as printed.
    """
    options.choose_backend()
    import sharpkeras as sk

    rows = sk.table(int(number))
    if as_json:
        click.echo(json.dumps(rows))
        return
    records = []
    for row in rows:
        printed, measured = row["printed"], row["measured"] or {}
        numbers = {
            "parameters, printed": _number(printed.get("params_m"), "M"),
            "measured": _number(measured.get("parameters")),
            "AddMults, printed": options.addmults_printed(printed),
            "measured (paper's count)": _number(measured.get("addmults_paper")),
            "conv + dense": _number(measured.get("addmults_conv_dense")),
        }
        records.append({"architecture": row["name"], **{name: tables.whole(text) for name, text in numbers.items()}})
    caption = "AddMults as the paper counts them, and plain multiply-adds"
    tables.show(records, title=f"Table {number}", caption=caption, right=numbers)
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        click.echo(f"{', '.join(row['name'] for row in rows if row['note'] == note)}: {note}")
    options.say_next("list", "paths" if number == "4" else "genotypes")


def _number(value: float | None, unit: str = "") -> str | None:
    if value is None:
        return None
    return f"{value:,}" if isinstance(value, int) and not unit else f"{value} {unit}"
