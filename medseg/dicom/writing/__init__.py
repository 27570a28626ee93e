"""Labels as DICOM: segmentations and structure sets, with codes and colours."""
