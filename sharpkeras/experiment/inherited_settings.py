"""What the training of an architecture takes over from the run that found it: images, and what they make of a recipe.

Not its seed and not its precision: they are part of how a network is trained.
"""

import os

from sharpkeras.recipes import SearchRecipe, TrainRecipe, training_of
from sharpkeras.runs import RunDirectory, contents, files


def training_recipe(path, name=None, search=None):
    """The TrainRecipe by which the architecture in a run directory is trained next.

    Of a search that of `recipes.training_of`, which reads the images of the search; of a training its own.

    Args:
        path: the run directory.
        name: of a row of TRAININGS, for the architecture of a search; None is the one that goes with it.
        search: SearchRecipe; None is that of the search itself.

    Raises:
        RunError, ConfigError: when there is no such run, or it is damaged.
    """
    run = RunDirectory.read(path)
    settings, where = contents.settings(run), str(run.path / files.RECIPE)
    if run.kind == "train":
        return TrainRecipe.from_dict(settings, where)
    search = search or SearchRecipe.from_dict(settings, where)
    if not os.path.lexists(run.path / files.DATA):  # what is no regular file is refused when it is read
        return training_of(search, name)
    return training_of(search, name, contents.images(run)["shape"], contents.number_of_images(run))
