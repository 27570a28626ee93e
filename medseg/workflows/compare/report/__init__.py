"""What a comparison showed: statistics, tables, sentences and the page."""
