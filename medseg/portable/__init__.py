"""What travels inside an exported bundle: plain torch and MONAI, importable without medseg."""
