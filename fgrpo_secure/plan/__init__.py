"""What a configuration amounts to; client and server both compute it, each for itself."""
