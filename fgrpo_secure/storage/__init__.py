"""What lies where on disk: run directory, owners' folder, checkpoints, signed files."""
