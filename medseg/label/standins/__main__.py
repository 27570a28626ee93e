"""Print PYTHONPATH for MONAI Label: `PYTHONPATH=$(python -m medseg.label.standins) monailabel start_server ...`."""

import sys

from medseg.label.standins import python_path

sys.stdout.write(python_path() + "\n")
