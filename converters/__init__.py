"""One file for each target: a reformulated network in, an artifact's bytes out."""
