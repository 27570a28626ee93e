"""Print PYTHONPATH for MONAI Label: `PYTHONPATH=$(python -m medseg.serve.standins) monailabel start_server ...`."""

import sys

from medseg.serve.standins import python_path

sys.stdout.write(python_path() + "\n")
