"""The eyes of the live apps: what each makes of a frame."""
