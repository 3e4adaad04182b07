"""A reformulated network in, an artifact out: a file for each target, and one for each step that a target needs."""
