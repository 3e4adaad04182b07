"""Training: recipe -> pictures in memory -> augmented batches -> losses -> checkpoints. Never on a device."""
