"""The smallest recipes that go through every step of a run, for tests that call the library itself."""

from sharpkeras.recipes import SearchRecipe, TrainRecipe
from sharpkeras.spaces.cell import genotype as genotypes

SIZES = dict(limit=80, batch_size=16, init_channels=2, num_cells=3)
SEARCH_RECIPE = SearchRecipe(**SIZES, epochs=3, num_nodes=1, space="max_pool_3x3,skip_connect,sep_conv_3x3")
TRAIN_RECIPE = TrainRecipe(**SIZES, epochs=3, warmup_epochs=1, drop_path=0.4, cutout_px=2, label_smoothing=0.1)
GENOTYPE = genotypes.Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("sep_conv_3x3", 2)),
    normal_concat=(2, 3),
    reduce=(("sep_conv_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("sep_conv_3x3", 0)),
    reduce_concat=(2, 3),
)
