"""Rounds of pseudo-labels: training, labelling the unlabelled cases, training again."""
