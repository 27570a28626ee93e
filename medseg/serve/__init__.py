"""The MONAI Label app of medseg; `monailabel` itself is imported only inside the server's processes."""
