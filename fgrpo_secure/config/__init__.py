"""What may be asked for: the schema, rules between keys, files and presets. Knows no data and no model."""
