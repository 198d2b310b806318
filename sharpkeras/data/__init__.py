"""Images and labels as arrays, and everything random about them as a function of (seed, epoch, index).

datasets   DATASETS and load(): a spec such as `digits` or `folder:PATH` becomes a Dataset of uint8 arrays
folder     class folders of image files, scanned in full before anything is used
streams    splits, orders and batches by index, on the host (NumPy)
augment    crop, flip, normalise and cutout, batched, on the device (keras.ops; import it by its full name)
"""

from sharpkeras.data.datasets import DATASETS, Dataset, load

__all__ = ["DATASETS", "Dataset", "load"]
