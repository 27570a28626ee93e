"""What a pipeline may say: its settings, how a YAML is read, and what may be made from names in files."""
