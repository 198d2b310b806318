"""The search: the bilevel update, the model that does it, its loop, and the watch for collapse."""
