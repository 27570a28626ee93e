"""Where the label server keeps studies and labels: a folder or a DICOMweb archive, with labels as DICOM SEG."""
