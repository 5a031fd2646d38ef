"""A whole run, from start to publication, at its operator."""
