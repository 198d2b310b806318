"""Architecture search: the bilevel update, the search model, its loop, and the collapse watch."""
