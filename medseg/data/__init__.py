"""From manifest to patches: transforms, cached volumes, random streams."""
