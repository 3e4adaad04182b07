"""What XNNPACK, Edge TPU, GPU delegates and the Neural Engine take of an artifact, and why not the rest."""
