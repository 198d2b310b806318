"""Images and labels, and everything random about them as a function of (seed, epoch, index).

datasets   DATASETS and load(): a spec such as `digits` or `folder:PATH` becomes a Dataset
sources    Dataset, and what loaders take and return: arrays, folder, tfds and generated hold the loaders
layout     what lies in a folder: which folders are splits, which are classes, and what is left out
images     image files decoded into memory, all of them before anything is used
files      images that stay on disk and are decoded when a batch needs them
views      what a network sees of an image: the centre in evaluation, a random resized crop in training
streams    splits, orders and batches by index, on the host (NumPy)
augment    crop, flip, AutoAugment, normalise and cutout, batched, on the device (keras.ops; import it by its full name)
"""

from sharpkeras.data.datasets import DATASETS, Dataset, load

__all__ = ["DATASETS", "Dataset", "load"]
