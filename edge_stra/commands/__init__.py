"""The commands of `edge-stra`, one file each. Heavy imports live inside the functions."""
