"""Reading and writing of images and label maps; travels inside bundles."""
