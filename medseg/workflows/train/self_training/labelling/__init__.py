"""Pseudo-labels: predictions, the rule, what is known of them."""
