"""What the paper and its code published: genotypes and paths, tables, AutoAugment policies."""
