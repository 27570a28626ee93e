"""Series of DICOM images: found, stacked, read."""
