"""From votes to labels: the energy of the disputed voxels, and its minimum by graph cuts."""
