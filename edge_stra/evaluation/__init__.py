"""Figures of an artifact or a checkpoint on labelled pictures, and the pictures that show them."""
