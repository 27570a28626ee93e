"""One file per method that fuses several raters' annotations into one label map."""
