"""What runs on the device: faces, expressions, re-identification, overlay. Imports nothing heavier than the runtime."""
