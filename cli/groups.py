"""The options of `search`, `train` and `sweep` in named groups, in the help text."""

from collections.abc import Iterable

import click

# Heading → names of parameters, those that are needed most first. A command shows what it has of each.
GROUPS = {
    "Rows": ("recipes", "random", "seeds", "search", "train"),
    "Where jobs run": ("on", "jobs", "threads", "slurm"),
    "Data": (
        "dataset",
        "limit",
        "image_size",
        "resize_size",
        "crop_padding_px",
        "cutout_px",
        "autoaugment",
        "random_resized_crop",
        "download",
        "skip_bad_images",
        "follow_symlinks",
    ),
    "Search space and network": (
        "space",
        "ops",
        "weighting",
        "init_channels",
        "num_cells",
        "num_nodes",
        "num_scales",
        "mid_channels",
        "final_filters",
        "stem",
    ),
    "Search and training": (
        "name",
        "epochs",
        "batch_size",
        "order",
        "skip_none",
        "train_portion",
        "init",
        "selection",
        "held_out",
        "accumulate",
        "ema",
        "drop_path",
        "auxiliary_weight",
        "label_smoothing",
        "precision",
        "seed",
    ),
    "Optimisation": (
        "learning_rate",
        "min_learning_rate",
        "power",
        "warmup_epochs",
        "momentum",
        "l2",
        "clip_norm",
        "arch_learning_rate",
        "arch_l2",
    ),
    "Budget": (
        "max_addmults",
        "max_parameters",
        "max_latency_ms",
        "latency_table",
        "cost_of",
        "penalty",
        "cost_weight",
    ),
    "Run": (
        "out",
        "config",
        "assignments",
        "strict",
        "smoke",
        "dry_run",
        "must_exist",
        "overwrite",
        "backend",
        "device",
        "devices",
        "coordinator",
        "process_id",
        "num_processes",
        "checkpoint_s",
        "steps_per_call",
        "remat",
        "deterministic",
        "strict_resume",
        "fail_on_degenerate",
        "ignore_disk_check",
        "ignore_memory_check",
        "as_json",
    ),
}


class GroupedCommand(click.Command):
    """A command whose help text has its options under the headings of GROUPS, and others, such as --help, below."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = {p.name: p for p in self.get_params(ctx) if isinstance(p, click.Option)}
        for heading, names in GROUPS.items():
            _write(formatter, ctx, heading, [options.pop(name) for name in names if name in options])
        _write(formatter, ctx, "Other options", options.values())


def _write(formatter: click.HelpFormatter, ctx: click.Context, heading: str, options: Iterable[click.Option]) -> None:
    if records := [record for option in options if (record := option.get_help_record(ctx))]:
        with formatter.section(heading):
            formatter.write_dl(records)
