"""How much each rater counts, what raters overlooked, and the weighted votes that follow."""
