"""What the label server does for a client, as MONAI Label calls it: inference, training, scoring, strategies."""
