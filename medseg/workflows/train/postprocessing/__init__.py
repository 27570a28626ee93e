"""Which components of each class a finished model keeps: chosen on cases that it was not trained on."""
