"""Images and labels, and everything random about them as a function of (seed, epoch, index).

datasets        DATASETS and load(): a spec such as `digits` or `folder:PATH` becomes a Dataset
dataset         Dataset, and what loaders take and return: arrays, folder, tfds and synthetic hold the loaders
folder_layout   what lies in a folder: which folders are splits, which are classes, and what is left out
decoding        image files decoded into memory, all of them before anything is used
encoded_images  images that stay on disk and are decoded when a batch needs them
transforms      what a network sees of an image: the centre in evaluation, a random resized crop in training
batches         splits, orders and batches by index, on the host (NumPy)
prefetch        batches made in a thread ahead of their use
augment         crop, flip, AutoAugment, normalise and cutout, batched, on the device (keras.ops); random resized
                crops are in transforms and encoded_images
"""

from sharpkeras.data.dataset import Dataset
from sharpkeras.data.datasets import DATASETS, load

__all__ = ["DATASETS", "Dataset", "load"]
