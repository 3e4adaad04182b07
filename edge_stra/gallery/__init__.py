"""People's embeddings, kept and searched: one small interface, two engines, opened by URI (`open_gallery`)."""
