"""Trains a served model further on the labels that were saved, and publishes it if it is better."""
