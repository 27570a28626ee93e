"""DICOM: series of images as volumes, segmentations in and out, contours in. Needs the extra `dicom`."""
