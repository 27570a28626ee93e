"""Consensus by graph cuts and semi-supervised learning (Mahapatra 2017): the method and its parts."""
