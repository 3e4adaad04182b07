"""One file for each target: what lies between a network with weights and an artifact of it."""
